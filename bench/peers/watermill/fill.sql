-- The envelope that the forwarder's own publisher makes; a thousand messages a transaction, because it reads by transaction.
SELECT format($$
    INSERT INTO watermill_forwarder (uuid, payload, metadata, transaction_id)
    SELECT gen_random_uuid(), json_build_object('destination_topic', %L::text, 'uuid', gen_random_uuid(),
        'payload', translate(encode(convert_to(pg_temp.payload(n), 'UTF8'), 'base64'), E'\n', ''),
        'metadata', json_build_object('key', n::text)), '{}', pg_current_xact_id()
    FROM generate_series(%s, %s) AS n
$$, :'topic', first, least(first + 999, :messages)) FROM generate_series(1, :messages, 1000) AS first
\gexec
