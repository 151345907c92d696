// Package kafka is the producer that the Go peers share: what differs between them is the queue, not the client.
package kafka

import (
	"context"
	"os"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Producer sends to one topic. Idempotence and acks=all are franz-go's defaults; acks is named because it is compared.
type Producer struct{ client *kgo.Client }

// Dial connects to KAFKA and sends to TOPIC.
func Dial() (*Producer, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(os.Getenv("KAFKA")),
		kgo.DefaultProduceTopic(os.Getenv("TOPIC")),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		// As everywhere here: payloads travel as they are.
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	)
	if err != nil {
		return nil, err
	}
	return &Producer{client: client}, nil
}

// Send returns when every in-sync replica has the message.
func (p *Producer) Send(ctx context.Context, key string, payload []byte) error {
	return p.client.ProduceSync(ctx, &kgo.Record{Key: []byte(key), Value: payload}).FirstErr()
}

// Close ends the connection; what Send returned for is with the broker.
func (p *Producer) Close() { p.client.Close() }
