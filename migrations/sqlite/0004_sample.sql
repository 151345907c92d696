-- What waits, counted by one node for all, and when it is counted next.
CREATE TABLE {sample} (
    project TEXT NOT NULL PRIMARY KEY,
    due_at  INTEGER NOT NULL,
    counts  TEXT
);
