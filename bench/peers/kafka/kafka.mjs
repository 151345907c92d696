// The producer that the Node peers share. A send for each message would cost more than all else: those of one millisecond go together.
import { KafkaJS } from '@confluentinc/kafka-javascript'

const { Kafka, logLevel } = KafkaJS

export async function connect() {
  const kafka = new Kafka({ kafkaJS: { brokers: process.env.KAFKA.split(','), logLevel: logLevel.ERROR } })
  const producer = kafka.producer({
    kafkaJS: { acks: -1, idempotent: true },
    // Grouped already.
    'linger.ms': 0,
    'queue.buffering.max.messages': 200_000,
  })
  await producer.connect()
  return producer
}

export const message = (data) => ({ key: String(data.id), value: JSON.stringify(data) })

// Returns when every in-sync replica has the messages.
export const send = (producer, messages) => producer.send({ topic: process.env.TOPIC, messages })

// For those that are handed one job at a time.
export class Grouped {
  #producer
  #waiting = []
  #group = null

  constructor(producer) {
    this.#producer = producer
  }

  send(one) {
    this.#waiting.push(one)
    this.#group ??= new Promise((resolve) => setTimeout(resolve, 1)).then(() => {
      const messages = this.#waiting
      this.#waiting = []
      this.#group = null
      return send(this.#producer, messages)
    })
    return this.#group
  }
}
