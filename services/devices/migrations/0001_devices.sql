-- Something that carries sensors.
CREATE TABLE device (
  tenant       $text NOT NULL,
  device_id    $text NOT NULL,
  site         $text NOT NULL,
  name         $text NOT NULL,
  manufacturer $text NOT NULL,
  model        $text NOT NULL,
  labels       $text NOT NULL, -- JSON object
  origin       $text NOT NULL,
  create_time  $int  NOT NULL,
  update_time  $int  NOT NULL,
  version      $int  NOT NULL,
  PRIMARY KEY (tenant, device_id)
) $strict;

-- One stream of numbers. What is empty or null comes from the profile.
CREATE TABLE sensor (
  tenant            $text NOT NULL,
  sensor_id         $text NOT NULL,
  device_id         $text NOT NULL,
  site              $text NOT NULL, -- its device's
  name              $text NOT NULL,
  profile_id        $text NOT NULL,
  unit              $text NOT NULL,
  range_min         $real,
  range_max         $real,
  expected_interval $int, -- microseconds
  labels            $text NOT NULL, -- JSON object
  suggested_room    $text NOT NULL,
  suggested_metric  $text NOT NULL,
  create_time       $int  NOT NULL,
  update_time       $int  NOT NULL,
  version           $int  NOT NULL,
  PRIMARY KEY (tenant, sensor_id)
) $strict;

CREATE INDEX sensor_by_device ON sensor (tenant, device_id, sensor_id);
CREATE INDEX sensor_by_profile ON sensor (tenant, profile_id);

-- A tenant's own profiles; the built-in ones are in the program.
CREATE TABLE profile (
  tenant            $text NOT NULL,
  profile_id        $text NOT NULL,
  name              $text NOT NULL,
  quantity          $text NOT NULL,
  unit              $text NOT NULL,
  range_min         $real,
  range_max         $real,
  expected_interval $int, -- microseconds
  update_time       $int  NOT NULL,
  version           $int  NOT NULL,
  PRIMARY KEY (tenant, profile_id)
) $strict;
