-- The table that the router expects. The slot is there before the rows: it reads what came after it, as after an outage.
CREATE TABLE outbox (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregatetype text NOT NULL,
    aggregateid   text NOT NULL,
    type          text NOT NULL,
    payload       text NOT NULL
);
CREATE PUBLICATION outbox FOR TABLE outbox;
SELECT pg_create_logical_replication_slot(:'topic', 'pgoutput');
-- A thousand messages a transaction, because it reads by transaction.
SELECT format($$
    INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
    SELECT 'message', n::text, 'made', pg_temp.payload(n) FROM generate_series(%s, %s) AS n
$$, first, least(first + 999, :messages)) FROM generate_series(1, :messages, 1000) AS first
\gexec
