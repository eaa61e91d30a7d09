-- The tests that readings are put to, as `devices.v1.QualityTests`; null = none.
ALTER TABLE profile ADD COLUMN quality_tests $bytes;
