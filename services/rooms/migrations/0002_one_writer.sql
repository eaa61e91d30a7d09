-- A row for each tenant, which every change of its places and placements locks first: what a change looks at (the tree, who is in
-- a room) stays as it is until the change is committed.
CREATE TABLE writer (
    tenant  $text NOT NULL,
    changes $int  NOT NULL,
    PRIMARY KEY (tenant)
) $strict;
