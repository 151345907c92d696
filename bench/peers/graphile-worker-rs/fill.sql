INSERT INTO graphile_worker._private_tasks (identifier) VALUES ('message') ON CONFLICT DO NOTHING;
INSERT INTO graphile_worker._private_jobs (task_id, payload)
SELECT task.id, pg_temp.payload(n)::json FROM generate_series(1, :messages) AS n, graphile_worker._private_tasks AS task WHERE task.identifier = 'message';
