-- Times are UTC. Defaults run in the application's session, whose time zone may be any: UTC_TIMESTAMP(6), never CURRENT_TIMESTAMP.
-- RANDOM_BYTES is unknown to MariaDB 10.6: the random part of an id is taken from the hash of UUID(), which is never the same twice.
-- Texts are compared byte by byte, blanks at the end included; the collation that does so has another name in each (the comments are read by them).
-- DDL commits by itself here: IF NOT EXISTS, so that a migration that was cut off can be repeated.
CREATE TABLE IF NOT EXISTS {migrations} (
    version    varchar(64) NOT NULL PRIMARY KEY,
    checksum   varchar(64) NOT NULL,
    applied_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M!100600 COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS {log} (
    -- What applications may write.
    id            char(36) NOT NULL PRIMARY KEY DEFAULT (LOWER(INSERT(INSERT(INSERT(INSERT(
                      CONCAT(LPAD(HEX(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6)) DIV 1000), 12, '0'),
                             '7', SUBSTRING(SHA2(UUID(), 256), 1, 3), SUBSTRING('89ab', 1 + FLOOR(RAND() * 4), 1), SUBSTRING(SHA2(UUID(), 256), 4, 15)),
                      9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-'))),
    project       varchar(255) DEFAULT {project},
    source        varchar(255),
    topic         text,
    msg_key       mediumtext,
    msg_key_bytes mediumblob,
    payload       longblob,
    headers       mediumtext,
    priority      bigint DEFAULT 0,
    due_at        datetime(6) DEFAULT (UTC_TIMESTAMP(6)),
    expires_at    datetime(6),
    order_key     text,
    max_retries   bigint,
    -- What redrive keeps.
    state              varchar(16) NOT NULL DEFAULT 'pending',
    epoch              bigint      NOT NULL DEFAULT 1,
    attempts           bigint      NOT NULL DEFAULT 0,
    retries            bigint      NOT NULL DEFAULT 0,
    created_at         datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    updated_at         datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    finished_at        datetime(6),
    lease_token        bigint      NOT NULL DEFAULT 0,
    lease_until        datetime(6),
    lease_node         varchar(255),
    attempt_started_at datetime(6),
    attempt_ms         bigint,
    log_count          bigint      NOT NULL DEFAULT 0,
    log_tail           bigint      NOT NULL DEFAULT 0,
    log_tail_outcome   varchar(16),
    error_class        varchar(16),
    error_code         varchar(255),
    error_detail       text,
    result             text,
    idempotency_key    varchar(255),
    retry              text,
    -- Not used yet.
    parent_id         char(36),
    fair_key          varchar(255),
    blocked_by        char(36),
    schedule_id       char(36),
    progress          text,
    trace_context     text,
    error_fingerprint varchar(64),
    -- The queue in which the message waits. A state that is none counts as waiting: a committed row is sent.
    level tinyint GENERATED ALWAYS AS (
        CASE WHEN state IN ('sending', 'succeeded', 'failed', 'cancelled', 'blocked') THEN NULL
             WHEN priority IS NULL OR priority < 0 THEN 0 WHEN priority > 9 THEN 9 ELSE priority END) STORED,
    INDEX {p}resend_log_claim (project, source, level, due_at),
    INDEX {p}resend_log_lease (project, state, lease_until),
    INDEX {p}resend_log_state (project, state, id),
    INDEX {p}resend_log_finished (project, state, finished_at),
    INDEX {p}resend_log_idempotency (project, idempotency_key)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M!100600 COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS {attempt} (
    message_id   char(36) NOT NULL,
    epoch        bigint   NOT NULL,
    number       bigint   NOT NULL,
    project      varchar(255),
    attempts     bigint   NOT NULL,
    node         varchar(255),
    started_at   datetime(6),
    last_at      datetime(6),
    duration_ms  bigint,
    outcome      varchar(16),
    error_class  varchar(16),
    error_code   varchar(255),
    error_detail text,
    result       text,
    PRIMARY KEY (message_id, epoch, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M!100600 COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS {key} (
    project    varchar(255)   NOT NULL,
    source     varchar(255)   NOT NULL,
    idem_key   varchar(255)   NOT NULL,
    digest     varchar(64)    NOT NULL,
    message_id char(36)       NOT NULL,
    taken_by   bigint         NOT NULL,
    expires_at datetime(6)    NOT NULL,
    PRIMARY KEY (project, source, idem_key),
    INDEX {p}resend_key_expires (project, expires_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M!100600 COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */;

CREATE TABLE IF NOT EXISTS {node} (
    project    varchar(255) NOT NULL,
    node       varchar(255) NOT NULL,
    sources    mediumtext   NOT NULL,
    seen_at    datetime(6)  NOT NULL,
    expires_at datetime(6)  NOT NULL,
    PRIMARY KEY (project, node)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M!100600 COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */;
