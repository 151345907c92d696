-- A claim is one row, its sheet, that names the messages it took: their own rows are not touched until it is known what came of them.
CREATE TABLE IF NOT EXISTS {sheet} (
    token       bigint       NOT NULL PRIMARY KEY,
    project     varchar(255) NOT NULL,
    source      varchar(255) NOT NULL,
    level       tinyint      NOT NULL,
    node        varchar(255) NOT NULL,
    begun_at    datetime(6)  NOT NULL,
    lease_until datetime(6)  NOT NULL,
    -- The furthest message on it: the claims of a drain go on from there.
    last_due    datetime(6)  NOT NULL,
    last_row    char(36)     NOT NULL,
    -- A JSON list.
    ids         mediumtext   NOT NULL,
    INDEX {p}redrive_sheet_last (project, source, level, last_due, last_row)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M!100600 COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */;

-- Claims of one source go one after another, by a lock on its row here: each sees the sheets of those before it.
CREATE TABLE IF NOT EXISTS {turn} (
    project varchar(255) NOT NULL,
    source  varchar(255) NOT NULL,
    PRIMARY KEY (project, source)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M!100600 COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */;
