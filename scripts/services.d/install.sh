# shellcheck shell=bash disable=SC2034,SC2154 # one script in several files
# What has to be on the machine: Debian packages, the service user, and a Debian sid tree for the
# servers that Debian 12 does not have.

MIRROR=${REDRIVE_DEBIAN_MIRROR:-http://deb.debian.org/debian}

prepare_machine() {
    [[ -e /etc/debian_version ]] || fail "made for Debian; elsewhere use compose.yaml"
    mkdir -p "$SERVICES_DIR/run"
    chmod 0755 "$SERVICES_DIR" "$SERVICES_DIR/run"
    id "$SERVICE_USER" >/dev/null 2>&1 ||
        useradd --system --user-group --no-create-home --home-dir "$SERVICES_DIR" --shell /usr/sbin/nologin "$SERVICE_USER"
    setpriv --reuid "$SERVICE_USER" --regid "$SERVICE_USER" --clear-groups test -x "$SERVICES_DIR" ||
        fail "$SERVICES_DIR is out of reach for the user $SERVICE_USER: choose another REDRIVE_SERVICES_DIR"
}

packages_of() {
    case $1 in
        postgres | pgbouncer) echo postgresql-15 ;;&
        pgbouncer) echo pgbouncer ;;
        mariadb) echo mariadb-server ;;
        rabbitmq) echo rabbitmq-server ;;
        kafka) kafka_packages ;;
        # psql and mysql of Debian talk to the newer servers too.
        postgres18) echo postgresql-client-15 debootstrap ;;
        mysql) echo mariadb-client debootstrap ;;
        rabbitmq4) echo debootstrap ;;
    esac
}

install_packages_for() {
    local name packages=(procps openssl util-linux ca-certificates)
    for name in "$@"; do
        read -ra more <<<"$(packages_of "$name" | tr '\n' ' ')"
        packages+=("${more[@]}")
    done
    with_lock apt install_packages "${packages[@]}"
}

install_packages() {
    local missing=() package
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    log "installing ${missing[*]}"
    (
        block_service_starts
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q >"$SERVICES_DIR/run/apt.log" 2>&1 || log "apt-get update failed; trying with the lists there are"
        apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold \
            "${missing[@]}" >>"$SERVICES_DIR/run/apt.log" 2>&1 </dev/null 9>&-
    ) || {
        tail -n 30 "$SERVICES_DIR/run/apt.log" >&2
        fail "could not install ${missing[*]}"
    }
}

# Packages start their servers on installation, on the standard ports; ours are started by hand.
# A policy that is there already is somebody's decision and stays.
block_service_starts() {
    [[ ! -e /usr/sbin/policy-rc.d ]] || return 0
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 0755 /usr/sbin/policy-rc.d
}

# MySQL 9, PostgreSQL 18 and RabbitMQ 4 in one tree of about 1.3 GB, made once.
ensure_root() {
    [[ ! -e $ROOT_DIR/.complete ]] || return 0
    # Three servers wait for the tree; when it cannot be built, one attempt is enough.
    local begun=$SECONDS attempted=$SERVICES_DIR/run/sid-root.attempted
    [[ $(cat "$attempted" 2>/dev/null) != "$$" ]] || fail "no sid tree"
    echo "$$" >"$attempted"
    log "building a Debian sid tree for MySQL 9, PostgreSQL 18 and RabbitMQ 4 (once)"
    rm -rf "$ROOT_DIR"
    build_root >"$SERVICES_DIR/run/sid-root.log" 2>&1 9>&- || {
        tail -n 30 "$SERVICES_DIR/run/sid-root.log" >&2
        fail "could not build $ROOT_DIR; the whole log is $SERVICES_DIR/run/sid-root.log"
    }
    touch "$ROOT_DIR/.complete"
    log "the sid tree took $((SECONDS - begun)) s"
}

# Called as a condition's left side, where 'set -e' is off: hence the && chain.
build_root() {
    debootstrap --variant=minbase --include=ca-certificates sid "$ROOT_DIR" "$MIRROR" &&
        configure_root &&
        # First of all, while nobody else in the tree has this number.
        in_root_as_admin useradd --system --uid "$(id -u "$SERVICE_USER")" --user-group --no-create-home \
            --shell /usr/sbin/nologin "$SERVICE_USER" &&
        in_root_as_admin apt-get -o Acquire::Check-Valid-Until=false update &&
        in_root_as_admin apt-get install -y --no-install-recommends mysql-server-core rabbitmq-server postgresql-18 &&
        in_root_as_admin apt-get clean
}

configure_root() {
    printf '#!/bin/sh\nexit 101\n' >"$ROOT_DIR/usr/sbin/policy-rc.d"
    chmod 0755 "$ROOT_DIR/usr/sbin/policy-rc.d"
    # The tree can be made again at any time: no fsync, no manuals.
    mkdir -p "$ROOT_DIR/etc/dpkg/dpkg.cfg.d" "$ROOT_DIR/etc/postgresql-common"
    printf 'force-unsafe-io\npath-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n' \
        >"$ROOT_DIR/etc/dpkg/dpkg.cfg.d/redrive"
    printf 'force-confold\n' >>"$ROOT_DIR/etc/dpkg/dpkg.cfg.d/redrive"
    echo 'create_main_cluster = false' >"$ROOT_DIR/etc/postgresql-common/createcluster.conf"
    cp /etc/resolv.conf "$ROOT_DIR/etc/resolv.conf" 2>/dev/null || true
    cp /etc/hosts "$ROOT_DIR/etc/hosts"
    ! ls /etc/apt/apt.conf.d/*proxy* >/dev/null 2>&1 || cp /etc/apt/apt.conf.d/*proxy* "$ROOT_DIR/etc/apt/apt.conf.d/"
}

in_root_as_admin() {
    unshare --mount --propagation private "$BASH" "$here/services.d/enter-root" "$ROOT_DIR" "" 0:0 \
        env DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@" </dev/null
}
