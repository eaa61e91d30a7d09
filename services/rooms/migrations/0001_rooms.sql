-- Places, what is placed in them, and what the device registry says of the sensors.

CREATE TABLE place (
    tenant   $text NOT NULL,
    place_id $text NOT NULL,
    kind     $int  NOT NULL,
    name     $text NOT NULL,
    parent   $text NOT NULL,
    site     $text NOT NULL,
    created  $int  NOT NULL,
    updated  $int  NOT NULL,
    revision $int  NOT NULL,
    PRIMARY KEY (tenant, place_id)
) $strict;

-- A row for every stay of a sensor in a room. start_ns 0 = since its first reading; end_ns NULL = still there.
CREATE TABLE placement (
    tenant    $text NOT NULL,
    sensor_id $text NOT NULL,
    start_ns  $int  NOT NULL,
    end_ns    $int,
    room_id   $text NOT NULL,
    metric    $text NOT NULL,
    site      $text NOT NULL,
    PRIMARY KEY (tenant, sensor_id, start_ns)
) $strict;

CREATE INDEX placement_by_room ON placement (tenant, room_id, metric, start_ns, sensor_id);
CREATE UNIQUE INDEX placement_one_room ON placement (tenant, sensor_id) WHERE end_ns IS NULL;
CREATE UNIQUE INDEX placement_one_sensor ON placement (tenant, room_id, metric) WHERE end_ns IS NULL;

-- Derived from the stream of devices; rebuilt from it. heard = when it was last heard of, microseconds.
CREATE TABLE sensor (
    tenant           $text NOT NULL,
    sensor_id        $text NOT NULL,
    device_id        $text NOT NULL,
    name             $text NOT NULL,
    site             $text NOT NULL,
    profile_id       $text NOT NULL,
    quantity         $text NOT NULL,
    unit             $text NOT NULL,
    range_min        $real,
    range_max        $real,
    interval_ns      $int,
    suggested_room   $text NOT NULL,
    suggested_metric $text NOT NULL,
    heard            $int  NOT NULL,
    PRIMARY KEY (tenant, sensor_id)
) $strict;

CREATE INDEX sensor_by_device ON sensor (tenant, device_id);

CREATE TABLE profile (
    tenant      $text NOT NULL,
    profile_id  $text NOT NULL,
    quantity    $text NOT NULL,
    unit        $text NOT NULL,
    range_min   $real,
    range_max   $real,
    interval_ns $int,
    PRIMARY KEY (tenant, profile_id)
) $strict;
