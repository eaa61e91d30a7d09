-- To how many decimals a sensor's readings are rounded, as `devices` tells it; null = not.
ALTER TABLE sensor ADD COLUMN decimals $int;

-- How often readings of a series were deleted because somebody asked for it: a replica that has not heard of the last time
-- seals nothing of it. From here on `sealed_end` is the last time of all that was ever sealed, whatever is left of it.
ALTER TABLE series ADD COLUMN deletions $int NOT NULL DEFAULT 0;

-- What is new of sensors is only told in a snapshot: one is asked for.
DELETE FROM consumer WHERE name = 'devices';
