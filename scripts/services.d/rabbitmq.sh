# shellcheck shell=bash disable=SC2034,SC2154 # one script in several files
# RabbitMQ 3.10 of Debian, and RabbitMQ 4 from the sid tree. AMQP and AMQPS; the latter checks a
# client certificate when one is given. Virtual hosts "/" and "redrive", user 'redrive'.

rabbitmq_environment() {
    local home port
    home=$(home_of "$1")
    port=$(port_of "$1")
    RABBIT_ENV=(env RABBITMQ_NODENAME="redrive-$1@localhost" RABBITMQ_NODE_PORT="$port" RABBITMQ_DIST_PORT=$((port + 2))
        ERL_EPMD_PORT=$((port + 3)) ERL_EPMD_ADDRESS=127.0.0.1
        RABBITMQ_MNESIA_BASE="$home/data" RABBITMQ_LOG_BASE="$home/log" RABBITMQ_LOGS=-
        RABBITMQ_ENABLED_PLUGINS_FILE="$home/enabled_plugins" RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf"
        RABBITMQ_CONF_ENV_FILE=/dev/null
        # Idle schedulers that spin are a load on everybody else.
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none"
        # Makes the start script exec the server, so that the recorded pid is the server's.
        RABBITMQ_ALLOW_INPUT=1 RABBITMQ_SERVER_START_ARGS=-noinput)
}

rabbitmq_prepare() {
    local home port
    home=$(home_of "$1")
    port=$(port_of "$1")
    once "$home" install -d -m 0750 -o "$SERVICE_USER" -g "$SERVICE_USER" "$home/data" "$home/log"
    write_as_user "$home/enabled_plugins" <<<'[].'
    write_as_user "$home/definitions.json" <<JSON
{"users": [{"name": "redrive", "password": "$SERVICE_PASSWORD", "tags": ["administrator"]}],
 "vhosts": [{"name": "/"}, {"name": "redrive"}],
 "permissions": [{"user": "redrive", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
                 {"user": "redrive", "vhost": "redrive", "configure": ".*", "write": ".*", "read": ".*"}]}
JSON
    write_as_user "$home/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$port
listeners.ssl.1 = 127.0.0.1:$((port + 1))
ssl_options.cacertfile = $home/tls/ca.pem
ssl_options.certfile = $home/tls/server.pem
ssl_options.keyfile = $home/tls/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
load_definitions = $home/definitions.json
disk_free_limit.absolute = 50MB
log.console.level = info
CONF
}

rabbitmq_launch() {
    local RABBIT_ENV=() epmd=epmd
    rabbitmq_environment "$1"
    # Started by us, not by Erlang: then it has a recorded pid and does not outlive 'down'.
    pid_of "$1-epmd" >/dev/null || launch "$1-epmd" "${RABBIT_ENV[@]}" "$epmd"
    launch "$1" "${RABBIT_ENV[@]}" /usr/lib/rabbitmq/bin/rabbitmq-server
}

# A protocol header is answered with Connection.Start, which only a server that takes clients sends.
rabbitmq_ready() {
    local port
    port=$(port_of "$1")
    # shellcheck disable=SC2016
    [[ $(timeout 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "AMQP\0\0\011\001" >&3 && head -c 1 <&3 | od -An -tx1' "$port") == " 01" ]]
}

rabbitmq_set_up() { :; }

rabbitmq_ctl() {
    local RABBIT_ENV=()
    rabbitmq_environment "$1"
    as_user_of "$1" "${RABBIT_ENV[@]}" /usr/lib/rabbitmq/bin/rabbitmqctl "${@:2}"
}
