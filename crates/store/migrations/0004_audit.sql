-- From where, by which request, and what of it changed.
ALTER TABLE log ADD COLUMN address $text NOT NULL DEFAULT '';
ALTER TABLE log ADD COLUMN request_id $text NOT NULL DEFAULT '';
ALTER TABLE log ADD COLUMN changes $text NOT NULL DEFAULT '';
