-- What waits, counted by one node for all, and when it is counted next.
CREATE TABLE {sample} (
    project text COLLATE "C" NOT NULL PRIMARY KEY,
    due_at  timestamptz NOT NULL,
    counts  text
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
