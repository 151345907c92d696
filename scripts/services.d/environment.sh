# shellcheck shell=bash disable=SC2034,SC2154 # one script in several files
# What the tests read. Fixed values, so they are right before the servers run too.

print_environment() {
    local password=$SERVICE_PASSWORD kafka
    kafka=$(port_of kafka)
    export_line REDRIVE_SERVICES "$1"
    export_line REDRIVE_SERVICES_DIR "$SERVICES_DIR"
    export_line REDRIVE_TEST_CERTS "$CERTS_DIR"
    export_line REDRIVE_TEST_POSTGRES_URL "$(database_url postgres postgres "redrive:$password")"
    export_line REDRIVE_TEST_POSTGRES18_URL "$(database_url postgres postgres18 "redrive:$password")"
    export_line REDRIVE_TEST_PGBOUNCER_URL "$(database_url postgres pgbouncer "redrive:$password")"
    export_line REDRIVE_TEST_MARIADB_URL "$(database_url mysql mariadb "redrive:$password")"
    export_line REDRIVE_TEST_MYSQL_URL "$(database_url mysql mysql "redrive:$password")"
    # These users are let in with the client certificate only.
    export_line REDRIVE_TEST_POSTGRES_CERT_URL "$(database_url postgres postgres redrive_cert)"
    export_line REDRIVE_TEST_MARIADB_CERT_URL "$(database_url mysql mariadb "redrive_cert:$password")"
    export_line REDRIVE_TEST_MYSQL_CERT_URL "$(database_url mysql mysql "redrive_cert:$password")"
    export_line REDRIVE_TEST_KAFKA "127.0.0.1:$kafka"
    export_line REDRIVE_TEST_KAFKA_SSL "localhost:$((kafka + 1))"
    export_line REDRIVE_TEST_KAFKA_SASL_SSL "localhost:$((kafka + 2))"
    export_line REDRIVE_TEST_KAFKA_SASL_PLAINTEXT "127.0.0.1:$((kafka + 3))"
    export_line REDRIVE_TEST_KAFKA_SASL_SSL_USER redrive
    export_line REDRIVE_TEST_KAFKA_SASL_SSL_PASSWORD "$KAFKA_PASSWORD"
    # A URL without a path means the virtual host "/".
    export_line REDRIVE_TEST_AMQP_URL "amqp://redrive:$password@127.0.0.1:$(port_of rabbitmq)/redrive"
    export_line REDRIVE_TEST_AMQPS_URL "amqps://redrive:$password@localhost:$(($(port_of rabbitmq) + 1))/redrive"
    export_line REDRIVE_TEST_AMQP4_URL "amqp://redrive:$password@127.0.0.1:$(port_of rabbitmq4)/redrive"
    export_line REDRIVE_TEST_AMQPS4_URL "amqps://redrive:$password@localhost:$(($(port_of rabbitmq4) + 1))/redrive"
}

export_line() { printf 'export %s=%q\n' "$1" "$2"; }

database_url() { echo "$1://$3@127.0.0.1:$(port_of "$2")/redrive"; }
