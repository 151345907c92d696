-- What is due at one time goes by its id: a claim goes on exactly behind the last message of the one before it, however many share a due time.
-- The old index goes first: it asks for the stronger lock. The new one may be made beforehand, with CREATE INDEX CONCURRENTLY.
DROP INDEX {schema}{p}resend_log_claim;
CREATE INDEX IF NOT EXISTS {p}resend_log_queue ON {log} (project, source, level, due_at, id) WHERE level IS NOT NULL;
-- The id of the last message on it; for a sheet that an older build wrote, one after all others.
ALTER TABLE {sheet} ADD COLUMN last_row uuid NOT NULL DEFAULT 'ffffffff-ffff-ffff-ffff-ffffffffffff';
