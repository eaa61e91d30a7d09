-- How each connection is set, and which sensors it has registered.

CREATE TABLE connection (
    tenant        $text NOT NULL,
    connection_id $text NOT NULL,
    adapter       $text NOT NULL,
    enabled       $int  NOT NULL,
    interval_us   $int  NOT NULL,
    PRIMARY KEY (tenant, connection_id)
) $strict;

CREATE TABLE registered (
    tenant        $text NOT NULL,
    connection_id $text NOT NULL,
    sensor_id     $text NOT NULL,
    PRIMARY KEY (tenant, connection_id, sensor_id)
) $strict;
