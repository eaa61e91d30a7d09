-- A batch's id is its sender's own, and stands for what the batch holds: `digest`. Answers from before go; readings that are
-- sent again are known by themselves.
DROP TABLE batch;
CREATE TABLE answer (
  tenant   $text NOT NULL,
  sender   $text NOT NULL,
  batch_id $text NOT NULL,
  door     $int NOT NULL,
  time     $int NOT NULL,
  digest   $bytes NOT NULL,
  answer   $bytes NOT NULL,
  PRIMARY KEY (tenant, sender, batch_id, door)
) $strict;
CREATE INDEX answer_by_time ON answer (time);
