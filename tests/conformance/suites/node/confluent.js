// @confluentinc/kafka-javascript against a broker: `node confluent.js BOOTSTRAP MODULES`. It is librdkafka below, with an API
// that looks like that of kafkajs. Each scenario prints one line, PASS name or FAIL name: why.
"use strict";

const assert = require("node:assert/strict");
const { setTimeout: sleep } = require("node:timers/promises");
const { numbers, play, until } = require("./playing");

const [bootstrap, modules] = process.argv.slice(2);
const { ErrorCodes, Kafka, logLevel } = require(`${modules}/@confluentinc/kafka-javascript`).KafkaJS;
const kafka = new Kafka({ kafkaJS: { clientId: "confluent-js", brokers: [bootstrap], logLevel: logLevel.NOTHING } });
const admin = kafka.admin();
const stamp = process.hrtime.bigint().toString(36);

async function topic(name, numPartitions = 1) {
  await admin.createTopics({ topics: [{ topic: `${name}-${stamp}`, numPartitions }] });
  return `${name}-${stamp}`;
}

async function producer(settings = {}, outer = {}) {
  const made = kafka.producer({ "linger.ms": 0, ...outer, kafkaJS: settings });
  await made.connect();
  return made;
}

async function consumer(name, groupId, { settings = {}, outer = {}, eachMessage }) {
  const made = kafka.consumer({ "fetch.wait.max.ms": 100, ...outer, kafkaJS: { groupId, fromBeginning: true, ...settings } });
  await made.connect();
  await made.subscribe({ topic: name });
  await made.run({ eachMessage });
  return made;
}

/** All values of a topic from the beginning; for a moment more than are expected. */
async function all(name, { count, readUncommitted = false, group = `reader-${stamp}-${Math.random()}` }) {
  const found = [];
  const eachMessage = async ({ message }) => void found.push(message.value.toString());
  const reader = await consumer(name, group, { settings: { readUncommitted }, eachMessage });
  await until(() => found.length >= count);
  await sleep(300);
  await reader.disconnect();
  return found;
}

async function rebalancing(protocol, outer) {
  const name = await topic(`groups-${protocol}`, 4);
  const found = [];
  const eachMessage = async ({ message }) => void found.push(Number(message.value.toString()));
  const members = [];
  for (let number = 0; number < 3; number++)
    members.push(await consumer(name, `groups-${protocol}-${stamp}`, { outer, eachMessage }));
  await until(() => members.every((each) => each.assignment().length > 0));
  const sender = await producer();
  for (let number = 0; number < 100; number++)
    await sender.send({ topic: name, messages: [{ value: String(number), partition: number % 4 }] });
  await until(() => found.length >= 100);
  await Promise.all([sender, ...members].map((each) => each.disconnect()));
  assert.deepEqual(found.sort((one, other) => one - other), numbers(100).map((each) => Number(each.value)));
}

const scenarios = {
  async plainProducer() {
    const name = await topic("plain");
    for (const compression of ["none", "gzip", "snappy", "lz4"])
      for (const acks of [0, 1, -1]) {
        const sender = await producer({ acks, compression });
        await sender.send({ topic: name, messages: numbers(5) });
        await sender.disconnect();
      }
    assert.equal((await all(name, { count: 60 })).length, 60);
  },

  async idempotentProducerWithFiveInFlight() {
    const name = await topic("idempotent");
    const sender = await producer({ idempotent: true, maxInFlightRequests: 5 }, { "batch.num.messages": 3 });
    await Promise.all(numbers(300).map((message) => sender.send({ topic: name, messages: [message] })));
    await sender.disconnect();
    assert.deepEqual(await all(name, { count: 300 }), numbers(300).map((each) => each.value));
  },

  async transactionsCommitAndAbort() {
    const name = await topic("transactions");
    const sender = await producer({ transactionalId: `id-${stamp}` });
    const expected = [];
    for (let number = 0; number < 12; number++) {
      const transaction = await sender.transaction();
      await transaction.send({ topic: name, messages: numbers(5, number * 5) });
      if (number % 3 === 0) {
        await transaction.abort();
      } else {
        await transaction.commit();
        expected.push(...numbers(5, number * 5).map((each) => each.value));
      }
    }
    await sender.disconnect();
    assert.deepEqual(await all(name, { count: 40 }), expected);
    assert.equal((await all(name, { count: 60, readUncommitted: true })).length, 60);
  },

  async copyingExactlyOnce() {
    const [source, target] = [await topic("source"), await topic("target")];
    const feeder = await producer();
    await feeder.send({ topic: source, messages: numbers(40) });
    await feeder.disconnect();
    const groupId = `copy-${stamp}`;
    const sender = await producer({ transactionalId: groupId });
    let copied = 0;
    let aborted = false;
    const copier = await consumer(source, groupId, {
      settings: { autoCommit: false },
      outer: { "js.consumer.max.batch.size": 1 },
      eachMessage: async ({ topic: name, partition, message }) => {
        const transaction = await sender.transaction();
        await transaction.send({ topic: target, messages: [{ value: message.value }] });
        const next = String(Number(message.offset) + 1);
        await transaction.sendOffsets({ consumer: copier, topics: [{ topic: name, partitions: [{ partition, offset: next }] }] });
        if (message.offset === "20" && !aborted) {
          aborted = true;
          await transaction.abort();
          await copier.seek({ topic: name, partition, offset: message.offset });
          return;
        }
        await transaction.commit();
        copied += 1;
      },
    });
    await until(() => copied >= 40);
    const [stored] = await admin.fetchOffsets({ groupId, topics: [source] });
    await Promise.all([copier.disconnect(), sender.disconnect()]);
    assert.equal(stored.partitions[0].offset, "40");
    assert.deepEqual(await all(target, { count: 40 }), numbers(40).map((each) => each.value));
    assert.equal((await all(target, { count: 41, readUncommitted: true })).length, 41);
  },

  async anotherInstanceFencesTheFirst() {
    const name = await topic("fence");
    const first = await producer({ transactionalId: `fence-${stamp}` });
    const open = await first.transaction();
    await open.send({ topic: name, messages: [{ value: "never" }] });
    const second = await producer({ transactionalId: `fence-${stamp}` });
    const next = await second.transaction();
    await assert.rejects(open.commit(), (error) => error.fatal || error.code === ErrorCodes.ERR__FENCED);
    await next.send({ topic: name, messages: [{ value: "second" }] });
    await next.commit();
    await Promise.all([first.disconnect(), second.disconnect()]);
    assert.deepEqual(await all(name, { count: 1 }), ["second"]);
  },

  groupsRebalance: () => rebalancing("classic", {}),

  groupsOfTheConsumerProtocolRebalance: () => rebalancing("consumer", { "group.protocol": "consumer" }),

  async aGroupGoesOnWhereItWas() {
    const name = await topic("goes-on");
    const sender = await producer();
    await sender.send({ topic: name, messages: numbers(10) });
    assert.equal((await all(name, { count: 10, group: `goes-on-${stamp}` })).length, 10);
    await sender.send({ topic: name, messages: numbers(5, 10) });
    await sender.disconnect();
    assert.deepEqual(await all(name, { count: 5, group: `goes-on-${stamp}` }), numbers(5, 10).map((each) => each.value));
  },

  async adminOfTopics() {
    const name = await topic("admin", 3);
    const [described] = await admin.fetchTopicMetadata({ topics: [name] });
    assert.equal(described.partitions.length, 3);
    const sender = await producer();
    await sender.send({ topic: name, messages: numbers(9).map((each) => ({ ...each, partition: 1 })) });
    await sender.disconnect();
    await admin.deleteTopicRecords({ topic: name, partitions: [{ partition: 1, offset: "4" }] });
    const one = (await admin.fetchTopicOffsets(name)).find((each) => each.partition === 1);
    assert.deepEqual([one.low, one.high], ["4", "9"]);
    const byTime = await admin.fetchTopicOffsetsByTimestamp(name, 0);
    assert.equal(byTime.find((each) => each.partition === 1).offset, "4");
    await admin.deleteTopics({ topics: [name] });
    assert.ok(!(await admin.listTopics()).includes(name));
  },

  async adminOfGroups() {
    const name = await topic("admin-groups");
    const groupId = `admin-groups-${stamp}`;
    const sender = await producer();
    await sender.send({ topic: name, messages: numbers(7) });
    await sender.disconnect();
    assert.equal((await all(name, { count: 7, group: groupId })).length, 7);
    const [stored] = await admin.fetchOffsets({ groupId, topics: [name] });
    assert.equal(stored.partitions[0].offset, "7");
    assert.ok((await admin.listGroups()).groups.some((each) => each.groupId === groupId));
    await admin.deleteGroups([groupId]);
    assert.ok(!(await admin.listGroups()).groups.some((each) => each.groupId === groupId));
  },
};

admin.connect().then(() => play(scenarios));
