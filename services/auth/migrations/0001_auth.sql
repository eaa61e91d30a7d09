-- Somebody who can log in. User names are unique in the whole system, because a log-in names no tenant.
CREATE TABLE account (
  tenant          $text NOT NULL,
  user_id         $text NOT NULL,
  username        $text NOT NULL,
  username_key    $text NOT NULL, -- compared without case
  display_name    $text NOT NULL,
  role            $int  NOT NULL,
  sites           $text NOT NULL, -- JSON array; [] = the whole tenant
  disabled        $int  NOT NULL,
  password_hash   $text NOT NULL, -- PHC string
  one_time        $int  NOT NULL, -- 1 = the password was made by us and stands in a file
  revoked_second  $int  NOT NULL, -- tokens of the user issued in or before this second are revoked
  create_time     $int  NOT NULL,
  last_login_time $int,
  PRIMARY KEY (tenant, user_id)
) $strict;

CREATE UNIQUE INDEX account_by_username ON account (username_key);

-- A log-in that lives on by refreshing.
CREATE TABLE session (
  tenant      $text NOT NULL,
  session_id  $text NOT NULL,
  user_id     $text NOT NULL,
  client      $text NOT NULL,
  create_time $int  NOT NULL,
  use_time    $int  NOT NULL,
  expire_time $int  NOT NULL,
  PRIMARY KEY (tenant, session_id)
) $strict;

CREATE INDEX session_by_user ON session (tenant, user_id);
CREATE INDEX session_by_expiry ON session (expire_time);

-- Every refresh token a session ever had, as its SHA-256, so that a second use of any of them is noticed.
CREATE TABLE refresh_token (
  tenant      $text  NOT NULL,
  token_hash  $bytes NOT NULL,
  session_id  $text  NOT NULL,
  use_time    $int,
  PRIMARY KEY (tenant, token_hash)
) $strict;

CREATE UNIQUE INDEX refresh_token_by_hash ON refresh_token (token_hash);
CREATE INDEX refresh_token_by_session ON refresh_token (tenant, session_id);

-- What access tokens are signed with. The private half stands here only where no state directory is configured.
CREATE TABLE signing_key (
  tenant      $text NOT NULL,
  key_id      $text NOT NULL,
  x           $text NOT NULL,
  y           $text NOT NULL,
  private_pem $text,
  not_before  $int  NOT NULL,
  sign_until  $int  NOT NULL,
  retire_time $int  NOT NULL,
  PRIMARY KEY (tenant, key_id)
) $strict;

-- A one-use permission to register; removed by its use.
CREATE TABLE invitation (
  tenant      $text  NOT NULL,
  secret_hash $bytes NOT NULL,
  role        $int   NOT NULL,
  sites       $text  NOT NULL,
  expire_time $int   NOT NULL,
  PRIMARY KEY (tenant, secret_hash)
) $strict;

CREATE UNIQUE INDEX invitation_by_secret ON invitation (secret_hash);

-- Tokens that are valid by signature and no longer accepted, until they have expired by themselves.
CREATE TABLE revocation (
  tenant       $text NOT NULL,
  subject_kind $text NOT NULL, -- session or user
  subject_id   $text NOT NULL,
  revoke_time  $int  NOT NULL,
  expire_time  $int  NOT NULL,
  PRIMARY KEY (tenant, subject_kind, subject_id)
) $strict;

CREATE INDEX revocation_by_expiry ON revocation (expire_time);
