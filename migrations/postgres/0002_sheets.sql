-- A claim is one row, its sheet, that names the messages it took: their own rows are not touched until it is known what came of them.
CREATE TABLE {sheet} (
    token       bigint      NOT NULL PRIMARY KEY,
    project     text COLLATE "C" NOT NULL,
    source      text COLLATE "C" NOT NULL,
    level       smallint    NOT NULL,
    node        text        NOT NULL,
    begun_at    timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    -- The latest due time on it: the claims of a drain go on from there.
    last_due    timestamptz NOT NULL,
    ids         uuid[]      NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
-- Random numbers are not worth compressing.
ALTER TABLE {sheet} ALTER COLUMN ids SET STORAGE EXTERNAL;
CREATE INDEX {p}redrive_sheet_last ON {sheet} (project, source, last_due);

-- Claims of one source go one after another, by a lock on its row here: each sees the sheets of those before it.
CREATE TABLE {turn} (
    project text COLLATE "C" NOT NULL,
    source  text COLLATE "C" NOT NULL,
    PRIMARY KEY (project, source)
);
