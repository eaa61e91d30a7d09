-- A gateway that sends readings for many devices.
CREATE TABLE bridge (
  tenant      $text NOT NULL,
  bridge_id   $text NOT NULL,
  site        $text NOT NULL,
  name        $text NOT NULL,
  prefixes    $text NOT NULL, -- JSON array; [] = every device of its site
  max_devices $int  NOT NULL,
  create_time $int  NOT NULL,
  update_time $int  NOT NULL,
  version     $int  NOT NULL,
  PRIMARY KEY (tenant, bridge_id)
) $strict;

-- What a device or a bridge proves to be itself with: the SHA-256 of its token.
CREATE TABLE credential (
  tenant        $text  NOT NULL,
  credential_id $text  NOT NULL,
  device_id     $text  NOT NULL, -- '' = it is a bridge's
  bridge_id     $text  NOT NULL, -- '' = it is a device's
  name          $text  NOT NULL,
  token_hash    $bytes NOT NULL,
  create_time   $int   NOT NULL,
  use_time      $int,
  expire_time   $int, -- null = it does not end
  life          $int, -- how long it was made for, microseconds; null = for ever
  claim_code_id $text  NOT NULL, -- the code it was claimed with; '' = none
  PRIMARY KEY (tenant, credential_id)
) $strict;

CREATE INDEX credential_by_holder ON credential (tenant, device_id, bridge_id);
CREATE INDEX credential_by_end ON credential (tenant, expire_time);

-- A code that devices get their credentials with, as its SHA-256.
CREATE TABLE claim_code (
  tenant        $text  NOT NULL,
  claim_code_id $text  NOT NULL,
  code_hash     $bytes NOT NULL,
  name          $text  NOT NULL,
  site          $text  NOT NULL,
  prefix        $text  NOT NULL,
  uses_left     $int   NOT NULL,
  create_time   $int   NOT NULL,
  expire_time   $int   NOT NULL,
  PRIMARY KEY (tenant, claim_code_id)
) $strict;

CREATE UNIQUE INDEX claim_code_by_hash ON claim_code (code_hash);

-- How many devices a bridge has brought.
CREATE INDEX device_by_origin ON device (tenant, origin);
