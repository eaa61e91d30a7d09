-- What telemetry knows of sensors, and their readings in blocks. Reading times are nanoseconds, others microseconds,
-- since the Unix epoch.

-- What `devices` says of each sensor, with what its profile adds, followed from its stream. A deleted one stays, for the readings it left.
CREATE TABLE sensor (
  tenant    $text NOT NULL,
  sensor_id $text NOT NULL,
  device_id $text NOT NULL,
  site      $text NOT NULL,
  unit      $text NOT NULL,
  range_min $real,
  range_max $real,
  labels    $text NOT NULL,
  deleted   $int NOT NULL,
  PRIMARY KEY (tenant, sensor_id)
) $strict;

-- The number of each sensor that readings were taken of: for good, and never used again. What it was sealed up to, and its
-- latest reading then; a value is kept as its bits, because an engine may change a REAL (-0.0).
CREATE TABLE series (
  tenant         $text NOT NULL,
  series         $int NOT NULL,
  sensor_id      $text NOT NULL,
  shard          $int NOT NULL,
  sealed_seq     $int NOT NULL,
  sealed_start   $int,
  sealed_end     $int,
  latest_time    $int,
  latest_bits    $int,
  latest_quality $int NOT NULL,
  PRIMARY KEY (tenant, series)
) $strict;
CREATE UNIQUE INDEX series_by_number ON series (series);
CREATE UNIQUE INDEX series_by_sensor ON series (tenant, sensor_id);

-- Sealed readings. `part` is the place in the log up to which readings are in it: of two blocks of a series with a reading
-- at the same time, the one with the greater part holds. `level` 0 is readings as they came; others are for summaries.
-- The key carries `end_ns`, so that which blocks cover a time is read from the index alone.
CREATE TABLE block (
  tenant   $text NOT NULL,
  series   $int NOT NULL,
  level    $int NOT NULL,
  start_ns $int NOT NULL,
  part     $int NOT NULL,
  end_ns   $int NOT NULL,
  n        $int NOT NULL,
  header   $bytes NOT NULL,
  data     $bytes NOT NULL,
  PRIMARY KEY (tenant, series, level, start_ns, part, end_ns)
) $strict;
