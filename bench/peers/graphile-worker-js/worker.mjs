// graphile-worker works the queue, librdkafka sends. The reasons for the settings are in peer.toml.
import { Logger, run, runMigrations } from 'graphile-worker'
import { Grouped, connect, message } from '../kafka/kafka.mjs'

const connectionString = process.env.DATABASE_URL
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
        concurrentJobs: 1000,
        maxPoolSize: 10,
        localQueue: { size: 2000 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    },
    taskList: { message: (payload) => kafka.send(message(payload)) },
  })
  await runner.promise
  process.exit()
}
