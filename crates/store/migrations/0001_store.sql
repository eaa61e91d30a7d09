-- What the database is known by: a restored copy draws a new incarnation, so that cursors of its other life are refused.
CREATE TABLE identity (
  id          $int   NOT NULL PRIMARY KEY,
  incarnation $int   NOT NULL,
  cursor_key  $bytes NOT NULL
) $strict;

-- The end of each shard of the log, and what was cut off at its beginning.
CREATE TABLE log_head (
  shard        $int   NOT NULL PRIMARY KEY,
  seq          $int   NOT NULL,
  hash         $bytes NOT NULL,
  trimmed      $int   NOT NULL,
  trimmed_hash $bytes NOT NULL
) $strict;

-- What changed, in the order of commits. Chained by hashes, so that it is the audit too.
CREATE TABLE log (
  shard       $int   NOT NULL,
  seq         $int   NOT NULL,
  time        $int   NOT NULL,
  tenant      $text  NOT NULL,
  site        $text  NOT NULL,
  kind        $text  NOT NULL,
  subject     $text  NOT NULL,
  actor       $text  NOT NULL,
  traceparent $text  NOT NULL,
  payload     $bytes NOT NULL,
  hash        $bytes NOT NULL,
  PRIMARY KEY (shard, seq)
) $strict;

-- How far each consumer of another service's log has come; written in the transaction of its effect.
CREATE TABLE consumer (
  name   $text NOT NULL PRIMARY KEY,
  cursor $text NOT NULL,
  time   $int  NOT NULL
) $strict;

-- Messages that kept failing and were passed.
CREATE TABLE dead_letter (
  consumer $text  NOT NULL,
  id       $text  NOT NULL,
  time     $int   NOT NULL,
  cursor   $text  NOT NULL,
  error    $text  NOT NULL,
  message  $bytes NOT NULL,
  PRIMARY KEY (consumer, id)
) $strict;

-- Work that one replica does at a time. The epoch counts holders, so that one that was paused can be told from its successor.
CREATE TABLE lease (
  name    $text NOT NULL PRIMARY KEY,
  holder  $text NOT NULL,
  epoch   $int  NOT NULL,
  expires $int  NOT NULL
) $strict;

-- Answers given to requests with an id, to be given again.
CREATE TABLE request (
  tenant     $text  NOT NULL,
  method     $text  NOT NULL,
  request_id $text  NOT NULL,
  time       $int   NOT NULL,
  digest     $bytes NOT NULL,
  answer     $bytes NOT NULL,
  PRIMARY KEY (tenant, method, request_id)
) $strict;

CREATE INDEX request_by_time ON request (time);

INSERT INTO log_head (shard, seq, hash, trimmed, trimmed_hash) VALUES
  (0, 0, $zero32, 0, $zero32);
