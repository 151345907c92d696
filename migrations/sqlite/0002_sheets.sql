-- A claim is one row, its sheet, that names the messages it took: their own rows are not touched until it is known what came of them.
CREATE TABLE {sheet} (
    token       INTEGER NOT NULL PRIMARY KEY,
    project     TEXT    NOT NULL,
    source      TEXT    NOT NULL,
    level       INTEGER NOT NULL,
    node        TEXT    NOT NULL,
    begun_at    INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    -- The latest due time on it: the claims of a drain go on from there.
    last_due    INTEGER NOT NULL,
    -- A JSON list.
    ids         TEXT    NOT NULL
);
CREATE INDEX {p}redrive_sheet_last ON {sheet} (project, source, last_due);
