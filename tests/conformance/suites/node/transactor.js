// A transactional producer of kafkajs that does what it is told: `node transactor.js MODULES BOOTSTRAP TRANSACTIONAL_ID`. One call a
// line of stdin, words parted by tabs; it answers each with a line, `ok` or `error why`.
"use strict";

const readline = require("node:readline");

const [modules, bootstrap, transactionalId] = process.argv.slice(2);
const { Kafka, Partitioners, logLevel } = require(`${modules}/kafkajs`);
const kafka = new Kafka({
  clientId: "kafkajs",
  brokers: [bootstrap],
  logLevel: logLevel.NOTHING,
  retry: { initialRetryTime: 50, maxRetryTime: 500, retries: 40 },
});
const createPartitioner = Partitioners.DefaultPartitioner;
const producer = kafka.producer({ transactionalId, idempotent: true, maxInFlightRequests: 1, createPartitioner });

let transaction = null;
const calls = {
  begin: async () => void (transaction = await producer.transaction()),
  send: (topic, partition, value) => transaction.send({ topic, messages: [{ partition: Number(partition), value }] }),
  flush: async () => {},
  send_offset: (consumerGroupId, topic, offset) =>
    transaction.sendOffsets({ consumerGroupId, topics: [{ topic, partitions: [{ partition: 0, offset }] }] }),
  commit: () => transaction.commit(),
  abort: () => transaction.abort(),
};

/** kafkajs leaves some lost connections to its user; what it calls retriable is called again. */
async function retried(call, times = 5) {
  try {
    return await call();
  } catch (error) {
    if (!error.retriable || times === 0) throw error;
    return retried(call, times - 1);
  }
}

async function main() {
  await producer.connect();
  console.log("ok");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [name, ...words] = line.split("\t");
    try {
      await retried(() => calls[name](...words));
      console.log("ok");
    } catch (error) {
      console.log(`error ${String(error).replaceAll("\n", " ")}`);
    }
  }
  await producer.disconnect();
}

main();
