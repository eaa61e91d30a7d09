-- From where a session was last used, and with which program.
ALTER TABLE session ADD COLUMN user_agent $text NOT NULL DEFAULT '';
ALTER TABLE session ADD COLUMN address $text NOT NULL DEFAULT '';
