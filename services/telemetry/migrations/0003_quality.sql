-- What `devices` says of a sensor's tests, as `devices.v1.QualityTests`, and of how often it reports, in microseconds.
ALTER TABLE sensor ADD COLUMN quality_tests $bytes;
ALTER TABLE sensor ADD COLUMN expected_interval $int;

-- Versions of each sensor's calibration, numbered from 1. `function` is a `telemetry.v1.Calibration`'s; it is valid from
-- one reading time up to but not including another. One that was deleted stays, for the record; its number is not used again.
CREATE TABLE calibration (
  tenant      $text NOT NULL,
  sensor_id   $text NOT NULL,
  version     $int NOT NULL,
  body        $bytes NOT NULL,
  create_time $int NOT NULL,
  creator     $text NOT NULL,
  delete_time $int,
  deleter     $text NOT NULL,
  PRIMARY KEY (tenant, sensor_id, version)
) $strict;

-- What is new above is only told in a snapshot: one is asked for.
DELETE FROM consumer WHERE name = 'devices';
