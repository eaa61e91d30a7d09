-- A second factor (RFC 6238). The secret is there before it is asked for: until a code has shown that the app has it.
ALTER TABLE account ADD COLUMN totp_enabled $int NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN totp_secret $bytes;
ALTER TABLE account ADD COLUMN totp_step $int NOT NULL DEFAULT 0; -- the last step of which a code was taken

-- What stands for a code once, as its SHA-256.
CREATE TABLE recovery_code (
  tenant    $text  NOT NULL,
  user_id   $text  NOT NULL,
  code_hash $bytes NOT NULL,
  PRIMARY KEY (tenant, user_id, code_hash)
) $strict;
