-- Times are INTEGER milliseconds since 1970, UTC. An application may write ISO 8601 text into due_at and expires_at: a trigger turns it into milliseconds.
-- Defaults and triggers run in the application's SQLite, which may be old: they use julianday() alone.
CREATE TABLE {migrations} (
    version    TEXT NOT NULL PRIMARY KEY,
    checksum   TEXT NOT NULL,
    applied_at INTEGER NOT NULL DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER))
);

CREATE TABLE {log} (
    -- What applications may write.
    id            TEXT NOT NULL PRIMARY KEY DEFAULT (printf('%08x-%04x-7%03x-%04x-%012x',
                      (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) >> 16) & 4294967295,
                      CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) & 65535,
                      random() & 4095, 32768 | (random() & 16383), random() & 281474976710655)),
    project       TEXT DEFAULT {project},
    source        TEXT,
    topic         TEXT,
    msg_key       TEXT,
    msg_key_bytes BLOB,
    payload       BLOB,
    headers       TEXT,
    priority      INTEGER DEFAULT 0,
    due_at        INTEGER DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)),
    expires_at    INTEGER,
    order_key     TEXT,
    max_retries   INTEGER,
    -- What redrive keeps.
    state              TEXT    NOT NULL DEFAULT 'pending',
    epoch              INTEGER NOT NULL DEFAULT 1,
    attempts           INTEGER NOT NULL DEFAULT 0,
    retries            INTEGER NOT NULL DEFAULT 0,
    created_at         INTEGER NOT NULL DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)),
    updated_at         INTEGER NOT NULL DEFAULT (CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)),
    finished_at        INTEGER,
    lease_token        INTEGER NOT NULL DEFAULT 0,
    lease_until        INTEGER,
    lease_node         TEXT,
    attempt_started_at INTEGER,
    attempt_ms         INTEGER,
    log_count          INTEGER NOT NULL DEFAULT 0,
    log_tail           INTEGER NOT NULL DEFAULT 0,
    log_tail_outcome   TEXT,
    error_class        TEXT,
    error_code         TEXT,
    error_detail       TEXT,
    result             TEXT,
    idempotency_key    TEXT,
    retry              TEXT,
    -- Not used yet.
    parent_id         TEXT,
    fair_key          TEXT,
    blocked_by        TEXT,
    schedule_id       TEXT,
    progress          TEXT,
    trace_context     TEXT,
    error_fingerprint TEXT,
    -- The queue in which the message waits. A state that is none counts as waiting: a committed row is sent.
    level INTEGER GENERATED ALWAYS AS (
        CASE WHEN state IN ('sending', 'succeeded', 'failed', 'cancelled', 'blocked') THEN NULL
             WHEN typeof(priority) <> 'integer' THEN 0
             ELSE min(max(priority, 0), 9) END) VIRTUAL
);
CREATE INDEX {p}resend_log_claim ON {log} (project, source, level, due_at) WHERE level IS NOT NULL;
CREATE INDEX {p}resend_log_lease ON {log} (project, lease_until) WHERE state = 'sending';
CREATE INDEX {p}resend_log_state ON {log} (project, state, id) WHERE state NOT IN ('sending', 'succeeded');
CREATE INDEX {p}resend_log_finished ON {log} (project, state, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX {p}resend_log_idempotency ON {log} (project, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TRIGGER {p}resend_log_times_insert AFTER INSERT ON {log}
WHEN typeof(NEW.due_at) = 'text' OR typeof(NEW.expires_at) = 'text'
BEGIN
    UPDATE {log} SET
        due_at = CASE WHEN typeof(due_at) = 'text' AND julianday(due_at) IS NOT NULL
            THEN CAST(round((julianday(due_at) - 2440587.5) * 86400000.0) AS INTEGER) ELSE due_at END,
        expires_at = CASE WHEN typeof(expires_at) = 'text' AND julianday(expires_at) IS NOT NULL
            THEN CAST(round((julianday(expires_at) - 2440587.5) * 86400000.0) AS INTEGER) ELSE expires_at END
    WHERE rowid = NEW.rowid;
END;
CREATE TRIGGER {p}resend_log_times_update AFTER UPDATE OF due_at, expires_at ON {log}
WHEN (typeof(NEW.due_at) = 'text' AND julianday(NEW.due_at) IS NOT NULL) OR (typeof(NEW.expires_at) = 'text' AND julianday(NEW.expires_at) IS NOT NULL)
BEGIN
    UPDATE {log} SET
        due_at = CASE WHEN typeof(due_at) = 'text' AND julianday(due_at) IS NOT NULL
            THEN CAST(round((julianday(due_at) - 2440587.5) * 86400000.0) AS INTEGER) ELSE due_at END,
        expires_at = CASE WHEN typeof(expires_at) = 'text' AND julianday(expires_at) IS NOT NULL
            THEN CAST(round((julianday(expires_at) - 2440587.5) * 86400000.0) AS INTEGER) ELSE expires_at END
    WHERE rowid = NEW.rowid;
END;

CREATE TABLE {attempt} (
    message_id   TEXT    NOT NULL,
    epoch        INTEGER NOT NULL,
    number       INTEGER NOT NULL,
    project      TEXT,
    attempts     INTEGER NOT NULL,
    node         TEXT,
    started_at   INTEGER,
    last_at      INTEGER,
    duration_ms  INTEGER,
    outcome      TEXT,
    error_class  TEXT,
    error_code   TEXT,
    error_detail TEXT,
    result       TEXT,
    PRIMARY KEY (message_id, epoch, number)
) WITHOUT ROWID;

CREATE TABLE {key} (
    project    TEXT    NOT NULL,
    source     TEXT    NOT NULL,
    idem_key   TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    message_id TEXT    NOT NULL,
    taken_by   INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (project, source, idem_key)
) WITHOUT ROWID;
CREATE INDEX {p}resend_key_expires ON {key} (project, expires_at);

CREATE TABLE {node} (
    project    TEXT    NOT NULL,
    node       TEXT    NOT NULL,
    sources    TEXT    NOT NULL,
    seen_at    INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (project, node)
) WITHOUT ROWID;
