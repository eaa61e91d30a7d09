-- For how many days raw readings of such sensors are kept; 0 = as long as the system says.
ALTER TABLE profile ADD COLUMN retention_days $int NOT NULL DEFAULT 0;
