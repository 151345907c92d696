-- Fixed-width columns first: rows are smaller so.
CREATE TABLE {migrations} (
    version    text NOT NULL PRIMARY KEY,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE {log} (
    -- What applications may write. The id is a UUIDv7: 48 bits of milliseconds, version, random.
    id            uuid PRIMARY KEY DEFAULT (encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
                      placing substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid),
    priority      bigint      DEFAULT 0,
    due_at        timestamptz DEFAULT now(),
    expires_at    timestamptz,
    max_retries   bigint,
    -- What redrive keeps.
    epoch              bigint      NOT NULL DEFAULT 1,
    attempts           bigint      NOT NULL DEFAULT 0,
    retries            bigint      NOT NULL DEFAULT 0,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    finished_at        timestamptz,
    lease_token        bigint      NOT NULL DEFAULT 0,
    lease_until        timestamptz,
    attempt_started_at timestamptz,
    attempt_ms         bigint,
    log_count          bigint      NOT NULL DEFAULT 0,
    log_tail           bigint      NOT NULL DEFAULT 0,
    -- What applications may write.
    project       text COLLATE "C" DEFAULT {project},
    source        text COLLATE "C",
    topic         text,
    msg_key       text,
    msg_key_bytes bytea,
    payload       bytea,
    headers       text,
    order_key     text,
    -- What redrive keeps.
    state            text COLLATE "C" NOT NULL DEFAULT 'pending',
    lease_node       text,
    log_tail_outcome text,
    error_class      text,
    error_code       text,
    error_detail     text,
    result           text,
    idempotency_key  text,
    retry            text,
    -- Not used yet.
    parent_id         uuid,
    fair_key          text,
    blocked_by        uuid,
    schedule_id       uuid,
    progress          text,
    trace_context     text,
    error_fingerprint text,
    -- The queue in which the message waits. A state that is none counts as waiting: a committed row is sent.
    level smallint GENERATED ALWAYS AS (
        CASE WHEN state IN ('sending', 'succeeded', 'failed', 'cancelled', 'blocked') THEN NULL
             ELSE least(greatest(coalesce(priority, 0), 0), 9) END) STORED
) WITH (
    -- Every message is changed twice and never in place: what dies is taken away soon, in small portions.
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 2000
);
CREATE INDEX {p}resend_log_claim ON {log} (project, source, level, due_at) WHERE level IS NOT NULL;
CREATE INDEX {p}resend_log_lease ON {log} (project, lease_until) WHERE state = 'sending';
CREATE INDEX {p}resend_log_state ON {log} (project, state, id) WHERE state NOT IN ('sending', 'succeeded');
CREATE INDEX {p}resend_log_finished ON {log} (project, state, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX {p}resend_log_idempotency ON {log} (project, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE {attempt} (
    message_id   uuid   NOT NULL,
    epoch        bigint NOT NULL,
    number       bigint NOT NULL,
    attempts     bigint NOT NULL,
    started_at   timestamptz,
    last_at      timestamptz,
    duration_ms  bigint,
    project      text,
    node         text,
    outcome      text,
    error_class  text,
    error_code   text,
    error_detail text,
    result       text,
    PRIMARY KEY (message_id, epoch, number)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1);

CREATE TABLE {key} (
    project    text COLLATE "C" NOT NULL,
    source     text COLLATE "C" NOT NULL,
    idem_key   text COLLATE "C" NOT NULL,
    digest     text        NOT NULL,
    message_id uuid        NOT NULL,
    taken_by   bigint      NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (project, source, idem_key)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.1);
CREATE INDEX {p}resend_key_expires ON {key} (project, expires_at);

CREATE TABLE {node} (
    project    text        NOT NULL,
    node       text        NOT NULL,
    sources    text        NOT NULL,
    seen_at    timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (project, node)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
