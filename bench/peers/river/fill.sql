INSERT INTO river_job (args, kind, max_attempts, queue, state, priority)
SELECT pg_temp.payload(n)::jsonb, 'message', 25, 'default', 'available', 1 FROM generate_series(1, :messages) AS n;
