-- Questions that wait for a reply, and for a day those that do not any more. Times are microseconds since the Unix epoch.
CREATE TABLE exchange (
  tenant     $text  NOT NULL,
  kind       $text  NOT NULL,
  request_id $text  NOT NULL,
  digest     $bytes NOT NULL,
  until      $int   NOT NULL,
  state      $int   NOT NULL,
  settled    $int   NOT NULL,
  reply      $bytes NOT NULL,
  PRIMARY KEY (tenant, kind, request_id)
) $strict;

CREATE INDEX exchange_by_state ON exchange (state, until);
