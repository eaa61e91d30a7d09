-- For how many days a sensor's profile says that raw readings are kept, as `devices` tells it; 0 = as long as the system says.
ALTER TABLE sensor ADD COLUMN retention_days $int NOT NULL DEFAULT 0;

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
