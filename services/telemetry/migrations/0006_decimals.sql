-- To how many decimals a sensor's readings are rounded, as `devices` tells it; null = not.
ALTER TABLE sensor ADD COLUMN decimals $int;

-- What is new above is only told in a snapshot: one is asked for.
DELETE FROM consumer WHERE name = 'devices';
