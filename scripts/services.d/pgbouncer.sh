# shellcheck shell=bash disable=SC2034,SC2154 # one script in several files
# PgBouncer in transaction mode before PostgreSQL 15.

pgbouncer_prepare() {
    local home
    home=$(home_of pgbouncer)
    # Plain in the file: PgBouncer logs in to the server with it, and scram cannot be replayed.
    write_as_user "$home/users.txt" <<<"\"redrive\" \"$SERVICE_PASSWORD\""
    # extra_float_digits is what many drivers send at start; every guide has it here.
    write_as_user "$home/pgbouncer.ini" <<INI
[databases]
redrive_session = host=127.0.0.1 port=$(port_of postgres) dbname=redrive pool_mode=session
* = host=127.0.0.1 port=$(port_of postgres)

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $(port_of pgbouncer)
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $home/users.txt
admin_users = redrive
pool_mode = transaction
max_client_conn = 500
default_pool_size = 20
ignore_startup_parameters = extra_float_digits
client_tls_sslmode = allow
client_tls_cert_file = $home/tls/server.pem
client_tls_key_file = $home/tls/server.key
INI
}

pgbouncer_launch() { launch pgbouncer /usr/sbin/pgbouncer "$(home_of pgbouncer)/pgbouncer.ini"; }

pgbouncer_ready() { /usr/lib/postgresql/15/bin/pg_isready -q -h 127.0.0.1 -p "$(port_of pgbouncer)"; }

pgbouncer_set_up() { :; }

# SHOW POOLS and the like.
pgbouncer_ctl() { PGPASSWORD=$SERVICE_PASSWORD psql -h 127.0.0.1 -p "$(port_of pgbouncer)" -U redrive pgbouncer "${@:2}"; }
