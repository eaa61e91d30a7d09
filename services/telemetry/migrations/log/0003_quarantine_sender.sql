-- What one sender has sent never takes the place of another's; of a gateway it is kept for which site it speaks.
CREATE TABLE quarantine_of_senders (
  tenant    $text NOT NULL,
  sensor_id $text NOT NULL,
  time_ns   $int NOT NULL,
  bits      $int NOT NULL,
  quality   $int NOT NULL,
  received  $int NOT NULL,
  sender    $text NOT NULL,
  site      $text NOT NULL, -- the sender's; '' = the whole tenant
  register  $int NOT NULL,
  PRIMARY KEY (tenant, sensor_id, time_ns, sender)
) $strict;

INSERT INTO quarantine_of_senders (tenant, sensor_id, time_ns, bits, quality, received, sender, site, register)
  SELECT tenant, sensor_id, time_ns, bits, quality, received, sender, '', register FROM quarantine;

DROP TABLE quarantine;
ALTER TABLE quarantine_of_senders RENAME TO quarantine;
CREATE INDEX quarantine_by_sender ON quarantine (tenant, sender);
