# shellcheck shell=bash disable=SC2034,SC2154 # one script in several files
# PostgreSQL 15 of Debian, and PostgreSQL 18 from the sid tree.
# Log in as 'redrive' with a password (scram-sha-256), with or without TLS, or as 'redrive_cert' with
# the client certificate alone.

postgres_bin() { if in_root "$1"; then echo /usr/lib/postgresql/18/bin; else echo /usr/lib/postgresql/15/bin; fi; }

postgres_prepare() {
    local home
    home=$(home_of "$1")
    once "$home" as_user_of "$1" "$(postgres_bin "$1")/initdb" --pgdata "$home/data" --username postgres \
        --auth-local trust --auth-host scram-sha-256 --encoding UTF8 --locale C.UTF-8 >>"$home/server.log" 2>&1
    drop_stale_locks "$home/data/postmaster.pid" "$home/.s.PGSQL.$(port_of "$1").lock"
    write_as_user "$home/data/pg_hba.conf" <<'HBA'
# The socket lies in a folder that only the server's user and root can enter.
local    all  all                        trust
hostssl  all  redrive_cert  127.0.0.1/32 cert map=client
host     all  redrive_cert  127.0.0.1/32 reject
host     all  all           127.0.0.1/32 scram-sha-256
HBA
    write_as_user "$home/data/pg_ident.conf" <<<'client redrive-client redrive_cert'
    # Durability stays as it is out of the box: tests kill this server.
    write_as_user "$home/data/postgresql.auto.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $(port_of "$1")
unix_socket_directories = '$home'
max_connections = 300
shared_buffers = 512MB
max_wal_size = 4GB
ssl = on
ssl_ca_file = '$home/tls/ca.pem'
ssl_cert_file = '$home/tls/server.pem'
ssl_key_file = '$home/tls/server.key'
timezone = 'UTC'
CONF
}

write_as_user() { install -m 0600 -o "$SERVICE_USER" -g "$SERVICE_USER" /dev/stdin "$1"; }

postgres_launch() { launch "$1" "$(postgres_bin "$1")/postgres" -D "$(home_of "$1")/data"; }

postgres_ready() { /usr/lib/postgresql/15/bin/pg_isready -q -h 127.0.0.1 -p "$(port_of "$1")"; }

postgres_set_up() {
    postgres_ctl "$1" -q -v ON_ERROR_STOP=1 <<SQL
CREATE ROLE redrive LOGIN CREATEDB CREATEROLE PASSWORD '$SERVICE_PASSWORD';
GRANT pg_checkpoint TO redrive;
CREATE ROLE redrive_cert LOGIN;
CREATE DATABASE redrive OWNER redrive;
GRANT ALL ON DATABASE redrive TO redrive_cert;
SQL
}

postgres_ctl() { psql -h "$(home_of "$1")" -p "$(port_of "$1")" -U postgres "${@:2}"; }
