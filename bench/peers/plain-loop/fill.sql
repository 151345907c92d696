CREATE TABLE outbox (
    id      bigserial PRIMARY KEY,
    key     text        NOT NULL,
    payload bytea       NOT NULL,
    sent_at timestamptz
);
CREATE INDEX ON outbox (id) WHERE sent_at IS NULL;
INSERT INTO outbox (key, payload) SELECT n::text, convert_to(pg_temp.payload(n), 'UTF8') FROM generate_series(1, :messages) AS n;
