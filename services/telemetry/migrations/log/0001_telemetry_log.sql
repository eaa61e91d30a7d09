-- The log of readings: a database of its own, so that its commits and its cutting disturb nothing else.

-- The head of each shard. Shards belong to no tenant: theirs is empty. `bytes` and `readings` count everything ever logged;
-- up to `sealed` every reading is in a block; up to `trimmed` the log is cut. Only the holder of the lease of this `epoch` writes.
CREATE TABLE shard (
  tenant   $text NOT NULL,
  shard    $int NOT NULL,
  epoch    $int NOT NULL,
  seq      $int NOT NULL,
  bytes    $int NOT NULL,
  readings $int NOT NULL,
  sealed   $int NOT NULL,
  trimmed  $int NOT NULL,
  PRIMARY KEY (tenant, shard)
) $strict;
INSERT INTO shard (tenant, shard, epoch, seq, bytes, readings, sealed, trimmed) VALUES ('', 0, 0, 0, 0, 0, 0, 0);

-- One row for each batch, in the order of commits. `body` is the batch's groups as `telemetry.v1.ReadingBatch`, without
-- what was refused or a duplicate; `checksum` is its CRC32C. `bytes` and `readings` are those of the shard's head after it.
CREATE TABLE reading_log (
  tenant   $text NOT NULL,
  shard    $int NOT NULL,
  seq      $int NOT NULL,
  time     $int NOT NULL,
  backfill $int NOT NULL,
  bytes    $int NOT NULL,
  readings $int NOT NULL,
  checksum $int NOT NULL,
  body     $bytes NOT NULL,
  PRIMARY KEY (tenant, shard, seq)
) $strict;
CREATE UNIQUE INDEX reading_log_by_seq ON reading_log (shard, seq);

-- The first answer to each batch that had an id, for as long as it is repeated. `door` is the RPC it came by.
CREATE TABLE batch (
  tenant   $text NOT NULL,
  batch_id $text NOT NULL,
  door     $int NOT NULL,
  time     $int NOT NULL,
  answer   $bytes NOT NULL,
  PRIMARY KEY (tenant, batch_id, door)
) $strict;
CREATE INDEX batch_by_time ON batch (time);

-- Readings of sensors nobody has registered. `register` = the sender may register sensors and `devices` could not be asked.
CREATE TABLE quarantine (
  tenant    $text NOT NULL,
  sensor_id $text NOT NULL,
  time_ns   $int NOT NULL,
  bits      $int NOT NULL,
  quality   $int NOT NULL,
  received  $int NOT NULL,
  sender    $text NOT NULL,
  register  $int NOT NULL,
  PRIMARY KEY (tenant, sensor_id, time_ns)
) $strict;
