# shellcheck shell=bash disable=SC2034,SC2154 # one script in several files
# Names, ports, folders and rights: what every part of scripts/services needs.

SERVICES_DIR=${REDRIVE_SERVICES_DIR:-/var/tmp/redrive-services}
SERVICE_USER=redrive-svc
SERVICE_PASSWORD=redrive
ROOT_DIR=$SERVICES_DIR/sid-root
CERTS_DIR=$SERVICES_DIR/certs
ALL_SERVICES=(postgres mariadb kafka rabbitmq pgbouncer postgres18 mysql rabbitmq4)

log() { printf 'services: %s\n' "$*" >&2; }
fail() {
    log "error: $*"
    exit 1
}

# Not the standard ports: a developer's own servers are left in peace. An offset makes room for a
# second set beside the first.
port_of() {
    local port
    case $1 in
        postgres) port=15432 ;;
        postgres18) port=15433 ;;
        pgbouncer) port=15434 ;;
        mariadb) port=15306 ;;
        mysql) port=15307 ;;
        rabbitmq) port=15510 ;;  # + 1 TLS, + 2 distribution, + 3 epmd
        rabbitmq4) port=15520 ;; # likewise
        kafka) port=15092 ;;     # + 1 SSL, + 2 SASL_SSL, + 3 SASL_PLAINTEXT, + 4 controller
        *) fail "unknown server: $1" ;;
    esac
    echo $((port + ${REDRIVE_SERVICES_PORT_OFFSET:-0}))
}

# The file under services.d/ that knows this server.
kind_of() {
    case $1 in
        postgres | postgres18) echo postgres ;;
        mariadb | mysql) echo mysql ;;
        rabbitmq | rabbitmq4) echo rabbitmq ;;
        *) echo "$1" ;;
    esac
}

# Servers too new for Debian 12 run inside a Debian sid tree.
in_root() { [[ $1 =~ ^(postgres18|mysql|rabbitmq4)$ ]]; }

# Everything one server owns: data, log, configuration, keys.
home_of() { echo "$SERVICES_DIR/$1"; }

check_names() {
    local name
    for name in "$@"; do
        [[ " ${ALL_SERVICES[*]} " == *" $name "* ]] || fail "unknown server '$name'; there are: ${ALL_SERVICES[*]}"
    done
}

# The names given, or all; PgBouncer is nothing without the server behind it.
selection() {
    local names=("$@")
    [[ $# -gt 0 ]] || names=("${ALL_SERVICES[@]}")
    if [[ " ${names[*]} " == *" pgbouncer "* && " ${names[*]} " != *" postgres "* ]]; then
        names=(postgres "${names[@]}")
    fi
    echo "${names[@]}"
}

become_root() {
    [[ $(id -u) -ne 0 ]] || return 0
    if sudo -n true 2>/dev/null; then
        exec sudo -n REDRIVE_SERVICES_DIR="$SERVICES_DIR" \
            REDRIVE_SERVICES_PORT_OFFSET="${REDRIVE_SERVICES_PORT_OFFSET:-0}" "$here/services" "$@"
    fi
    fail "'$1' needs root (it installs packages and starts servers as the user $SERVICE_USER).
services: Run it once as root, or allow sudo without a password: sudo scripts/services $*
services: What does not run now: $(not_answering | tr '\n' ' ')"
}

not_answering() {
    local name
    for name in "${ALL_SERVICES[@]}"; do
        answers "$name" || echo "$name"
    done
}

# Runs the rest while holding a lock: several test runs may ask for the same server at once.
with_lock() {
    local lock=$SERVICES_DIR/run/$1.lock
    shift
    (
        flock 9
        "$@"
    ) 9>"$lock"
}

# The start time beside the pid: after a reboot the same number may be somebody else's.
start_time_of() {
    local stat fields
    read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
    # The command's name, in parentheses, may hold spaces: cut it off first.
    read -ra fields <<<"${stat##*) }"
    # A dead process that nobody has waited for is dead all the same.
    [[ ${fields[0]} != Z ]] || return 1
    echo "${fields[19]}"
}
