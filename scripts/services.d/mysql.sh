# shellcheck shell=bash disable=SC2034,SC2154 # one script in several files
# MariaDB 10.11 of Debian, and MySQL 9 from the sid tree.
# Log in as 'redrive' with a password, with or without TLS, or as 'redrive_cert' with a password and
# the client certificate.

mysql_prepare() {
    local home
    home=$(home_of "$1")
    if in_root "$1"; then
        once "$home" as_user_of "$1" /usr/sbin/mysqld --no-defaults --initialize-insecure --secure-file-priv=NULL \
            --datadir="$home/data" >>"$home/server.log" 2>&1
    else
        once "$home" as_user_of "$1" /usr/bin/mariadb-install-db --no-defaults --datadir="$home/data" \
            --auth-root-authentication-method=normal --skip-test-db >>"$home/server.log" 2>&1
    fi
    drop_stale_locks "$home/socket.lock"
    # Run by the server at each start, before it takes connections.
    write_as_user "$home/users.sql" <<SQL
CREATE DATABASE IF NOT EXISTS redrive;
CREATE USER IF NOT EXISTS 'redrive'@'%' IDENTIFIED BY '$SERVICE_PASSWORD';
GRANT ALL PRIVILEGES ON *.* TO 'redrive'@'%' WITH GRANT OPTION;
CREATE USER IF NOT EXISTS 'redrive_cert'@'%' IDENTIFIED BY '$SERVICE_PASSWORD' REQUIRE X509;
GRANT ALL PRIVILEGES ON redrive.* TO 'redrive_cert'@'%';
SQL
}

mysql_launch() {
    local home options
    home=$(home_of "$1")
    # Payloads of 100 MB are among the tests: a packet must hold one.
    options=(--no-defaults --datadir="$home/data" --port="$(port_of "$1")" --bind-address=127.0.0.1
        --socket="$home/socket" --pid-file="$home/server.pid" --init-file="$home/users.sql"
        --ssl-ca="$home/tls/ca.pem" --ssl-cert="$home/tls/server.pem" --ssl-key="$home/tls/server.key"
        --max-connections=300 --max-allowed-packet=256M --innodb-buffer-pool-size=512M --skip-name-resolve
        --character-set-server=utf8mb4 --skip-log-bin)
    if in_root "$1"; then
        # One value may fill a tenth of the redo log, no more.
        launch "$1" /usr/sbin/mysqld "${options[@]}" --mysqlx=OFF --performance-schema=OFF \
            --secure-file-priv=NULL --innodb-redo-log-capacity=1200M
    else
        launch "$1" /usr/sbin/mariadbd "${options[@]}" --innodb-log-file-size=1200M
    fi
}

# Answers without a login, and only when the server takes connections.
mysql_ready() { mysqladmin --no-defaults --protocol=tcp -h 127.0.0.1 -P "$(port_of "$1")" -u redrive -p"$SERVICE_PASSWORD" ping; }

mysql_set_up() { :; }

mysql_ctl() { mysql --no-defaults -S "$(home_of "$1")/socket" -u root "${@:2}"; }
