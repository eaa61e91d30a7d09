-- Where mail for a user goes.
ALTER TABLE account ADD COLUMN email $text NOT NULL DEFAULT '';

-- A one-use permission to set another password, as the SHA-256 of what was mailed; removed by its use.
CREATE TABLE password_reset (
  tenant      $text  NOT NULL,
  user_id     $text  NOT NULL,
  secret_hash $bytes NOT NULL,
  expire_time $int   NOT NULL,
  PRIMARY KEY (tenant, user_id)
) $strict;

CREATE UNIQUE INDEX password_reset_by_secret ON password_reset (secret_hash);
CREATE INDEX password_reset_by_expiry ON password_reset (expire_time);
