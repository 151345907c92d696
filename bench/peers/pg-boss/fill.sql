INSERT INTO pgboss.job (name, data) SELECT 'message', pg_temp.payload(n)::jsonb FROM generate_series(1, :messages) AS n;
