-- A token that a program acts with for a user, as its SHA-256.
CREATE TABLE personal_token (
  tenant      $text  NOT NULL,
  token_id    $text  NOT NULL,
  user_id     $text  NOT NULL,
  token_hash  $bytes NOT NULL,
  name        $text  NOT NULL,
  role        $int   NOT NULL, -- the most that it allows
  sites       $text  NOT NULL, -- JSON array; [] = all of the user's
  create_time $int   NOT NULL,
  use_time    $int,
  expire_time $int   NOT NULL,
  PRIMARY KEY (tenant, token_id)
) $strict;

CREATE UNIQUE INDEX personal_token_by_hash ON personal_token (token_hash);
CREATE INDEX personal_token_by_user ON personal_token (tenant, user_id);
CREATE INDEX personal_token_by_expiry ON personal_token (expire_time);
