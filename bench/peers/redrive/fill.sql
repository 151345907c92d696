INSERT INTO resend_log (project, source, topic, msg_key, payload)
SELECT 'peers', 'events', :'topic', n::text, convert_to(pg_temp.payload(n), 'UTF8') FROM generate_series(1, :messages) AS n;
