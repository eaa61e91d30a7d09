CREATE TABLE IF NOT EXISTS migration (
  owner    $text NOT NULL,
  version  $int  NOT NULL,
  name     $text NOT NULL,
  checksum $text NOT NULL,
  time     $int  NOT NULL,
  PRIMARY KEY (owner, version)
) $strict;
