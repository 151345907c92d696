# shellcheck shell=bash disable=SC2034,SC2154 # one script in several files
# A private CA, one certificate for all servers, one for a client, and a second CA that nobody
# trusts, so that a test can see a refusal.

ensure_certificates() { with_lock certs make_certificates; }

make_certificates() {
    if [[ -e $CERTS_DIR/.complete ]] && openssl x509 -in "$CERTS_DIR/server.pem" -noout -checkend 604800 >/dev/null; then
        return 0
    fi
    log "making certificates in $CERTS_DIR"
    rm -rf "$CERTS_DIR"
    mkdir -p "$CERTS_DIR"
    make_ca ca "Redrive test CA"
    make_ca other-ca "Some other CA"
    make_certificate ca server localhost "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1" serverAuth
    make_certificate ca client redrive-client "subjectAltName=DNS:redrive-client" clientAuth
    make_certificate other-ca other-client redrive-client "subjectAltName=DNS:redrive-client" clientAuth
    # The tests run as whoever called us, perhaps through sudo; clients insist on a private key's privacy.
    chown "${SUDO_UID:-0}:${SUDO_GID:-0}" "$CERTS_DIR"/*.key
    chmod 0600 "$CERTS_DIR"/*.key
    chmod 0644 "$CERTS_DIR"/*.pem
    touch "$CERTS_DIR/.complete"
    # Servers take their copy when they start.
}

make_ca() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -sha256 \
        -subj "/CN=$2" -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
        -keyout "$CERTS_DIR/$1.key" -out "$CERTS_DIR/$1.pem" 2>/dev/null
}

make_certificate() {
    local ca=$1 name=$2 common_name=$3 alternative=$4 usage=$5 serial
    serial=0x$(openssl rand -hex 15)
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -subj "/CN=$common_name" \
        -keyout "$CERTS_DIR/$name.key" 2>/dev/null |
        openssl x509 -req -days 3650 -sha256 -CA "$CERTS_DIR/$ca.pem" -CAkey "$CERTS_DIR/$ca.key" -set_serial "$serial" \
            -extfile <(printf '%s\n' "$alternative" "extendedKeyUsage=$usage" "basicConstraints=critical,CA:FALSE") \
            -out "$CERTS_DIR/$name.pem" 2>/dev/null
}

# A server reads its own copy: its key must belong to it, and the sid tree sees only its home.
install_server_certificate() {
    install -d -m 0700 -o "$SERVICE_USER" -g "$SERVICE_USER" "$1/tls"
    install -m 0600 -o "$SERVICE_USER" -g "$SERVICE_USER" "$CERTS_DIR/ca.pem" "$CERTS_DIR/server.pem" "$CERTS_DIR/server.key" "$1/tls/"
    # Kafka reads key and chain from one file.
    cat "$CERTS_DIR/server.key" "$CERTS_DIR/server.pem" "$CERTS_DIR/ca.pem" |
        install -m 0600 -o "$SERVICE_USER" -g "$SERVICE_USER" /dev/stdin "$1/tls/keystore.pem"
}
