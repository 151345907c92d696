// River works the queue, franz-go sends.
package main

import (
	"context"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"redrive.dev/bench/peers/kafka"
)

// Message is what a job carries; the job's raw JSON is what is sent, so nothing is encoded again.
type Message struct {
	ID int64 `json:"id"`
}

// Kind is the name of the job in the table.
func (Message) Kind() string { return "message" }

type worker struct {
	river.WorkerDefaults[Message]
	producer *kafka.Producer
}

func (w *worker) Work(ctx context.Context, job *river.Job[Message]) error {
	return w.producer.Send(ctx, strconv.FormatInt(job.Args.ID, 10), job.EncodedArgs)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if len(os.Args) > 1 && os.Args[1] == "migrate" {
		err = migrate(ctx, pool)
	} else {
		err = work(ctx, pool)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func work(ctx context.Context, pool *pgxpool.Pool) error {
	producer, err := kafka.Dial()
	if err != nil {
		return err
	}
	defer producer.Close()
	workers := river.NewWorkers()
	river.AddWorker(workers, &worker{producer: producer})
	// The reasons are in peer.toml.
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2000}},
		FetchCooldown:     2 * time.Millisecond,
		FetchPollInterval: 20 * time.Millisecond,
		Logger:            slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Workers:           workers,
	})
	if err != nil {
		return err
	}
	if err := client.Start(ctx); err != nil {
		return err
	}
	<-client.Stopped()
	return nil
}
