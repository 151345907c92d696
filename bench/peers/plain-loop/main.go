// The plainest outbox: claim one row, send it, wait for the broker, mark it. What most people write first.
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"redrive.dev/bench/peers/kafka"
)

const (
	claim = `SELECT id, key, payload FROM outbox WHERE sent_at IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED`
	mark  = `UPDATE outbox SET sent_at = now() WHERE id = $1`
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	connection, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer connection.Close(context.Background())
	producer, err := kafka.Dial()
	if err != nil {
		return err
	}
	defer producer.Close()
	for ctx.Err() == nil {
		found, err := one(ctx, connection, producer)
		if err != nil {
			return err
		}
		if !found {
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

func one(ctx context.Context, connection *pgx.Conn, producer *kafka.Producer) (bool, error) {
	transaction, err := connection.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer transaction.Rollback(context.Background())
	var (
		id      int64
		key     string
		payload []byte
	)
	if err := transaction.QueryRow(ctx, claim).Scan(&id, &key, &payload); errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if err := producer.Send(ctx, key, payload); err != nil {
		return false, err
	}
	if _, err := transaction.Exec(ctx, mark, id); err != nil {
		return false, err
	}
	return true, transaction.Commit(ctx)
}
