-- For how many days a sensor's profile says that raw readings are kept, as `devices` tells it; 0 = as long as the system says.
ALTER TABLE sensor ADD COLUMN retention_days $int NOT NULL DEFAULT 0;

-- The last time of a series' readings that are left as rollups only: blocks of `level` 1 (of 15 minutes, a day in each block)
-- and `level` 2 (of days in UTC, 64 in each). They hold what has left `level` 0 and nothing else, so that both add up.
ALTER TABLE series ADD COLUMN rolled_end $int;

-- When which part of each shard's log had arrived, once a day at most: what a block's `part` says of when its readings came.
-- Shards belong to no tenant: theirs is empty. What was sealed before this was counted has been here for ever.
CREATE TABLE arrival (
  tenant $text NOT NULL,
  shard  $int NOT NULL,
  time   $int NOT NULL,
  seq    $int NOT NULL,
  PRIMARY KEY (tenant, shard, time)
) $strict;
INSERT INTO arrival (tenant, shard, time, seq) SELECT '', shard, 0, MAX(sealed_seq) FROM series GROUP BY shard;

-- What is new above is only told in a snapshot: one is asked for.
DELETE FROM consumer WHERE name = 'devices';
