// Watermill's forwarder: messages that were published into a table within a transaction go on to Kafka.
package main

import (
	"context"
	stdsql "database/sql"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	_ "github.com/jackc/pgx/v5/stdlib"
)

// The table is watermill_forwarder.
const topic = "forwarder"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, len(os.Args) > 1 && os.Args[1] == "migrate"); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, migrate bool) error {
	database, err := stdsql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer database.Close()
	logger := watermill.NewSlogLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	// The reasons are in peer.toml.
	subscriber, err := sql.NewSubscriber(database, sql.SubscriberConfig{
		SchemaAdapter:    sql.DefaultPostgreSQLSchema{SubscribeBatchSize: 5000},
		OffsetsAdapter:   sql.DefaultPostgreSQLOffsetsAdapter{},
		PollInterval:     10 * time.Millisecond,
		InitializeSchema: true,
	}, logger)
	if err != nil {
		return err
	}
	if migrate {
		return subscriber.SubscribeInitialize(topic)
	}
	publisher, err := publisher(logger)
	if err != nil {
		return err
	}
	defer publisher.Close()
	forward, err := forwarder.NewForwarder(subscriber, publisher, logger, forwarder.Config{ForwarderTopic: topic})
	if err != nil {
		return err
	}
	return forward.Run(ctx)
}

func publisher(logger watermill.LoggerAdapter) (*kafka.Publisher, error) {
	config := kafka.DefaultSaramaSyncPublisherConfig()
	config.Version = sarama.V2_1_0_0
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Idempotent = true
	// What Sarama demands of an idempotent producer.
	config.Net.MaxOpenRequests = 1
	key := func(_ string, message *message.Message) (string, error) { return message.Metadata.Get("key"), nil }
	return kafka.NewPublisher(kafka.PublisherConfig{
		Brokers:               strings.Split(os.Getenv("KAFKA"), ","),
		Marshaler:             kafka.NewWithPartitioningMarshaler(key),
		OverwriteSaramaConfig: config,
	}, logger)
}
