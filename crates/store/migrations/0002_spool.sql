-- The end of the spool and what waits in it; its row orders those who put something in.
CREATE TABLE spool_head (
  id     $int NOT NULL PRIMARY KEY,
  number $int NOT NULL,
  calls  $int NOT NULL,
  bytes  $int NOT NULL
) $strict;

-- Calls that were accepted for a service that could not be reached. Those that are settled stay a while as receipts, without
-- the call itself.
CREATE TABLE spool (
  number     $int   NOT NULL PRIMARY KEY,
  tenant     $text  NOT NULL,
  receipt_id $text  NOT NULL,
  owner      $text  NOT NULL,
  target     $text  NOT NULL,
  method     $text  NOT NULL,
  accepted   $int   NOT NULL,
  state      $int   NOT NULL,
  settled    $int   NOT NULL,
  call       $bytes NOT NULL,
  answer     $bytes NOT NULL
) $strict;

CREATE UNIQUE INDEX spool_by_receipt ON spool (tenant, receipt_id);
CREATE INDEX spool_by_target ON spool (state, target, number);
CREATE INDEX spool_by_settled ON spool (state, settled);

INSERT INTO spool_head (id, number, calls, bytes) VALUES (1, 0, 0, 0);
