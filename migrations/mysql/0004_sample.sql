-- What waits, counted by one node for all, and when it is counted next.
CREATE TABLE IF NOT EXISTS {sample} (
    project varchar(255) NOT NULL PRIMARY KEY,
    due_at  datetime(6) NOT NULL,
    counts  mediumtext
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 /*M!100600 COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */;
