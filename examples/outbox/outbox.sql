-- An order and its message in one transaction, in PostgreSQL: psql "$DATABASE_URL" -f outbox.sql
-- Run it after redrive has made its tables (redrive serve, or redrive migrate).
\set ON_ERROR_STOP on

CREATE TABLE IF NOT EXISTS orders (number text PRIMARY KEY, total integer NOT NULL);

BEGIN;
INSERT INTO orders (number, total) VALUES ('o-17', 12);
-- Four columns are enough; the table's defaults fill in the rest. The payload is bytea, so text is converted to bytes.
INSERT INTO resend_log (source, topic, msg_key, payload)
VALUES ('orders-events', 'orders', 'o-17', convert_to('{"order": "o-17", "total": 12}', 'UTF8'));
COMMIT;

-- None of this is ever sent.
BEGIN;
INSERT INTO orders (number, total) VALUES ('o-18', 99);
INSERT INTO resend_log (source, topic, msg_key, payload)
VALUES ('orders-events', 'orders', 'o-18', convert_to('{"order": "o-18", "total": 99}', 'UTF8'));
ROLLBACK;
