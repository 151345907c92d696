# shellcheck shell=bash disable=SC2034,SC2154 # one script in several files
# Apache Kafka 4 in KRaft mode, one node that is broker and controller, from its Maven artifacts.
# Listeners: PLAINTEXT; SSL with a client certificate; SASL_SSL and SASL_PLAINTEXT with PLAIN,
# SCRAM-SHA-256 and SCRAM-SHA-512, user 'redrive'.

KAFKA_PASSWORD=redrive-secret
KAFKA_LIBS=$SERVICES_DIR/kafka-libs

kafka_packages() {
    [[ -x /usr/bin/java ]] || echo openjdk-17-jre-headless
    [[ -e $KAFKA_LIBS/.complete ]] || command -v mvn >/dev/null || echo maven
}

kafka_fetch() {
    local pom=$here/services.d/kafka/pom.xml
    if [[ -e $KAFKA_LIBS/.complete ]] && cmp -s "$pom" "$KAFKA_LIBS/pom.xml"; then return 0; fi
    log "fetching Kafka"
    rm -rf "$KAFKA_LIBS"
    mkdir -p "$KAFKA_LIBS"
    cp "$pom" "$KAFKA_LIBS/pom.xml"
    (cd "$KAFKA_LIBS" && mvn -B -q -f pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$KAFKA_LIBS") \
        </dev/null >"$SERVICES_DIR/run/kafka-libs.log" 2>&1 9>&- || {
        tail -n 20 "$SERVICES_DIR/run/kafka-libs.log" >&2
        fail "could not fetch Kafka from Maven"
    }
    chmod -R a+rX "$KAFKA_LIBS"
    touch "$KAFKA_LIBS/.complete"
}

kafka_prepare() {
    local home
    home=$(home_of kafka)
    with_lock kafka-libs kafka_fetch
    kafka_write_configuration "$home"
    once "$home" kafka_format "$home"
}

kafka_format() {
    local scram=()
    for mechanism in SCRAM-SHA-256 SCRAM-SHA-512; do
        scram+=(--add-scram "$mechanism=[name=redrive,password=$KAFKA_PASSWORD]")
    done
    as_user_of kafka /usr/bin/java -cp "$KAFKA_LIBS/*:$1" kafka.tools.StorageTool format \
        -t "$(kafka_cluster_id)" -c "$1/server.properties" --ignore-formatted "${scram[@]}" >>"$1/server.log" 2>&1
}

# 16 random bytes in URL-safe base64, as StorageTool random-uuid prints them, without a second JVM.
# One that begins with a dash would read as an option.
kafka_cluster_id() { echo "R$(openssl rand -base64 16 | tr '+/' 'ab' | cut -c2-22)"; }

kafka_write_configuration() {
    local home=$1 port
    port=$(port_of kafka)
    write_as_user "$home/log4j2.properties" <<'LOG'
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1} %m%n
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = INFO
LOG
    write_as_user "$home/server.properties" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 4))
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:$port,SSL://127.0.0.1:$((port + 1)),SASL_SSL://127.0.0.1:$((port + 2)),SASL_PLAINTEXT://127.0.0.1:$((port + 3)),CONTROLLER://127.0.0.1:$((port + 4))
advertised.listeners=PLAINTEXT://127.0.0.1:$port,SSL://localhost:$((port + 1)),SASL_SSL://localhost:$((port + 2)),SASL_PLAINTEXT://127.0.0.1:$((port + 3))
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$home/data

# A topic that is missing must be missing: that is one of the cases under test.
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.hours=24

# Back after a SIGKILL in seconds, not in twenty.
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300

ssl.keystore.type=PEM
ssl.keystore.location=$home/tls/keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=$home/tls/ca.pem
listener.name.ssl.ssl.client.auth=required
listener.name.sasl_ssl.ssl.client.auth=none

sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=$(kafka_jaas_plain)
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=$(kafka_jaas_scram)
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=$(kafka_jaas_scram)
listener.name.sasl_plaintext.plain.sasl.jaas.config=$(kafka_jaas_plain)
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=$(kafka_jaas_scram)
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=$(kafka_jaas_scram)
CONF
}

kafka_jaas_plain() { echo "org.apache.kafka.common.security.plain.PlainLoginModule required user_redrive=\"$KAFKA_PASSWORD\";"; }
kafka_jaas_scram() { echo "org.apache.kafka.common.security.scram.ScramLoginModule required;"; }

kafka_launch() {
    local home
    home=$(home_of kafka)
    # With the young generation of a heap this small it would stop for 20 to 50 ms every few seconds under load.
    launch kafka /usr/bin/java -Xmx512m -Xms512m -Xmn192m -XX:+UseSerialGC -XX:-UsePerfData -XX:+ExitOnOutOfMemoryError \
        -Djava.awt.headless=true -Dlog4j2.configurationFile="$home/log4j2.properties" \
        -cp "$KAFKA_LIBS/*" kafka.Kafka "$home/server.properties"
}

# An ApiVersions request: the port is open before the broker serves, an answer comes only after.
kafka_ready() {
    local port
    port=$(port_of kafka)
    # shellcheck disable=SC2016
    [[ $(timeout 2 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" &&
        printf "\0\0\0\012\0\022\0\0\0\0\0\001\377\377" >&3 && head -c 8 <&3 | wc -c' "$port") == 8 ]]
}

kafka_set_up() { :; }

# ctl kafka --list, --create --topic …: the topics tool.
kafka_ctl() {
    as_user_of kafka /usr/bin/java -cp "$KAFKA_LIBS/*" org.apache.kafka.tools.TopicCommand \
        --bootstrap-server "127.0.0.1:$(port_of kafka)" "${@:2}"
}
