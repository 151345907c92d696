// graphile-worker works the queue, librdkafka sends. The reasons for the settings are in peer.toml.
import { Logger, run, runMigrations } from 'graphile-worker'
import { Grouped, connect, message } from '../kafka/kafka.mjs'

const connectionString = process.env.DATABASE_URL
const setting = (name, otherwise) => Number(process.env[name] ?? otherwise)
const logger = new Logger(() => (level, text) => level === 'error' && console.error(text))

if (process.argv[2] === 'migrate') {
  await runMigrations({ connectionString, logger })
} else {
  const kafka = new Grouped(await connect())
  const runner = await run({
    preset: {
      worker: {
        connectionString,
        logger,
        concurrentJobs: setting('CONCURRENCY', 1000),
        maxPoolSize: 10,
        localQueue: { size: setting('LOCAL_QUEUE', 2000) },
        completeJobBatchDelay: setting('BATCH_DELAY', 0),
        failJobBatchDelay: 0,
      },
    },
    taskList: { message: (payload) => kafka.send(message(payload)) },
  })
  await runner.promise
  process.exit()
}
