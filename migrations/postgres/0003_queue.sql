-- What is due at one time goes by its id: a claim goes on exactly behind the last message of the one before it, however many share a due time.
CREATE INDEX {p}resend_log_queue ON {log} (project, source, level, due_at, id) WHERE level IS NOT NULL;
DROP INDEX {schema}{p}resend_log_claim;
-- The id of the last message on it; for a sheet that an older build wrote, one after all others.
ALTER TABLE {sheet} ADD COLUMN last_row uuid NOT NULL DEFAULT 'ffffffff-ffff-ffff-ffff-ffffffffffff';
