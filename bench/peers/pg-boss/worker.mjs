// pg-boss keeps the queue, librdkafka sends. The reasons for the settings are in peer.toml.
import PgBoss from 'pg-boss'
import { connect, message, send } from '../kafka/kafka.mjs'

const QUEUE = 'message'
const LOOPS = 2

const boss = new PgBoss({ connectionString: process.env.DATABASE_URL })
boss.on('error', console.error)
await boss.start()

if (process.argv[2] === 'migrate') {
  await boss.createQueue(QUEUE)
  await boss.stop()
  process.exit()
}

const producer = await connect()
let running = true
process.once('SIGTERM', () => { running = false })

async function loop() {
  while (running) {
    const jobs = await boss.fetch(QUEUE, { batchSize: 5000, priority: false })
    if (jobs.length === 0) {
      await new Promise((resolve) => setTimeout(resolve, 100))
      continue
    }
    await send(producer, jobs.map((job) => message(job.data)))
    await boss.complete(QUEUE, jobs.map((job) => job.id))
  }
}

await Promise.all(Array.from({ length: LOOPS }, loop))
process.exit()
