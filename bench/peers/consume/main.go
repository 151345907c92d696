// consume makes, watches, counts and removes the topic of a run. It stands outside: no peer's own count is believed.
//
//	consume create TOPIC PARTITIONS
//	consume watch  TOPIC MS           "TOTAL" on a line each time that more has arrived; looks every so many milliseconds
//	consume count  TOPIC MESSAGES     {"messages":…,"distinct":…,"copies":…,"lost":…}
//	consume delete TOPIC
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// Until the first message, because the clock starts with it; then as told, because asking costs the broker.
	untilFirst = 10 * time.Millisecond
	// Reading gives up when nothing came for so long.
	silence = 30 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "consume:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: consume create|watch|count|delete TOPIC [NUMBER]")
	}
	command, topic, number := args[0], args[1], 0
	if len(args) > 2 {
		var err error
		if number, err = strconv.Atoi(args[2]); err != nil {
			return err
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(os.Getenv("KAFKA")))
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	switch command {
	case "create":
		made, err := admin.CreateTopic(ctx, int32(number), -1, nil, topic)
		if err != nil {
			return err
		}
		return made.Err
	case "delete":
		_, err := admin.DeleteTopic(ctx, topic)
		return err
	case "watch":
		return watch(ctx, admin, topic, time.Duration(number)*time.Millisecond)
	case "count":
		return count(ctx, admin, topic, number)
	}
	return fmt.Errorf("no such command: %s", command)
}

// total is how many records the topic holds: producers without transactions leave no gaps in the offsets.
func total(ctx context.Context, admin *kadm.Client, topic string) (int64, error) {
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	if err := ends.Error(); err != nil {
		return 0, err
	}
	sum := int64(0)
	ends.Each(func(end kadm.ListedOffset) { sum += end.Offset })
	return sum, nil
}

func watch(ctx context.Context, admin *kadm.Client, topic string, every time.Duration) error {
	last := int64(-1)
	for ctx.Err() == nil {
		sum, err := total(ctx, admin, topic)
		if err != nil {
			return err
		}
		if sum != last {
			fmt.Println(sum)
			last = sum
		}
		if sum == 0 {
			time.Sleep(untilFirst)
		} else {
			time.Sleep(every)
		}
	}
	return nil
}

func count(ctx context.Context, admin *kadm.Client, topic string, expected int) error {
	until, err := total(ctx, admin, topic)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(os.Getenv("KAFKA")), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(16<<20))
	if err != nil {
		return err
	}
	defer client.Close()
	seen, distinct, messages := make([]bool, expected+1), 0, int64(0)
	for messages < until {
		waiting, cancel := context.WithTimeout(ctx, silence)
		fetches := client.PollFetches(waiting)
		cancel()
		if err := fetches.Err0(); err != nil {
			return fmt.Errorf("after %d of %d messages: %w", messages, until, err)
		}
		var bad error
		fetches.EachRecord(func(record *kgo.Record) {
			messages++
			id, err := idOf(record.Value)
			if err != nil || id < 1 || id > expected {
				bad = fmt.Errorf("not a message of this run: %.80q (%v)", record.Value, err)
			} else if !seen[id] {
				seen[id] = true
				distinct++
			}
		})
		if bad != nil {
			return bad
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]int64{
		"messages": messages, "distinct": int64(distinct), "copies": messages - int64(distinct), "lost": int64(expected - distinct),
	})
}

// idOf reads {"id": 17, …} without parsing the rest. PostgreSQL's jsonb may have put a blank after the colon.
func idOf(payload []byte) (int, error) {
	_, rest, found := bytes.Cut(payload, []byte(`"id":`))
	if !found {
		return 0, fmt.Errorf("no id")
	}
	rest = bytes.TrimLeft(rest, " ")
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	return strconv.Atoi(string(rest[:digits]))
}
