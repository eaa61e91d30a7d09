-- Tests of sensors, what they have found so far, and what the device registry says of the sensors.

-- Times are microseconds since the Unix epoch; 0 = not yet. request = the encoded StartTestRequest. breaks = when telemetry was
-- not heard, as JSON.
CREATE TABLE test (
    tenant      $text  NOT NULL,
    test_id     $text  NOT NULL,
    sensor_type $text  NOT NULL,
    device_id   $text  NOT NULL,
    site        $text  NOT NULL,
    state       $int   NOT NULL,
    actor       $text  NOT NULL,
    request     $bytes NOT NULL,
    duration    $int   NOT NULL,
    readings    $int   NOT NULL,
    created     $int   NOT NULL,
    started     $int   NOT NULL,
    ended       $int   NOT NULL,
    heard       $int   NOT NULL,
    due         $int   NOT NULL,
    breaks      $text  NOT NULL,
    missed      $int   NOT NULL,
    note        $text  NOT NULL,
    PRIMARY KEY (tenant, test_id)
) $strict;

CREATE INDEX test_by_time ON test (tenant, created, test_id);
CREATE INDEX test_unfinished ON test (created, test_id) WHERE ended = 0;

-- A sensor of a test. open = 1 while it counts. limits and tally are JSON; result = the encoded TestedSensor, once it is over.
CREATE TABLE tested (
    tenant    $text  NOT NULL,
    test_id   $text  NOT NULL,
    sensor_id $text  NOT NULL,
    device_id $text  NOT NULL,
    name      $text  NOT NULL,
    site      $text  NOT NULL,
    open      $int   NOT NULL,
    readings  $int   NOT NULL,
    limits    $text  NOT NULL,
    tally     $text  NOT NULL,
    result    $bytes,
    PRIMARY KEY (tenant, test_id, sensor_id)
) $strict;

CREATE INDEX tested_open ON tested (tenant, sensor_id) WHERE open = 1;
CREATE INDEX tested_by_sensor ON tested (tenant, sensor_id, test_id);

-- Derived from the stream of devices; rebuilt from it. suffix = the text after the id's last dot, in lower case; heard = when it
-- was last heard of, microseconds.
CREATE TABLE sensor (
    tenant         $text NOT NULL,
    sensor_id      $text NOT NULL,
    suffix         $text NOT NULL,
    device_id      $text NOT NULL,
    name           $text NOT NULL,
    site           $text NOT NULL,
    profile_id     $text NOT NULL,
    quantity       $text NOT NULL,
    unit           $text NOT NULL,
    range_min      $real,
    range_max      $real,
    interval_ns    $int,
    flat_tolerance $real NOT NULL,
    flat_count     $int  NOT NULL,
    gap_intervals  $int  NOT NULL,
    heard          $int  NOT NULL,
    PRIMARY KEY (tenant, sensor_id)
) $strict;

CREATE INDEX sensor_by_device ON sensor (tenant, device_id);
CREATE INDEX sensor_by_quantity ON sensor (tenant, quantity);

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
