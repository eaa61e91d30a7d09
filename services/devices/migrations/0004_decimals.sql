-- To how many decimals readings of such sensors are rounded; null = not.
ALTER TABLE profile ADD COLUMN decimals $int;
