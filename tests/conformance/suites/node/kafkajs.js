// kafkajs against a broker: `node kafkajs.js BOOTSTRAP MODULES`. Each scenario prints one line, PASS name or FAIL name: why.
"use strict";

const assert = require("node:assert/strict");
const { setTimeout: sleep } = require("node:timers/promises");
const { numbers, play, until } = require("./playing");

const [bootstrap, modules] = process.argv.slice(2);
const { CompressionTypes, Kafka, Partitioners, logLevel } = require(`${modules}/kafkajs`);
const kafka = new Kafka({
  clientId: "kafkajs",
  brokers: [bootstrap],
  logLevel: logLevel.NOTHING,
  retry: { initialRetryTime: 50, retries: 10 },
});
const admin = kafka.admin();
const stamp = process.hrtime.bigint().toString(36);

async function topic(name, numPartitions = 1) {
  await admin.createTopics({ topics: [{ topic: `${name}-${stamp}`, numPartitions }], waitForLeaders: true });
  return `${name}-${stamp}`;
}

function transactional(transactionalId, settings = {}) {
  const createPartitioner = Partitioners.DefaultPartitioner;
  return kafka.producer({ transactionalId, idempotent: true, maxInFlightRequests: 1, createPartitioner, ...settings });
}

/** All values of a topic from the beginning, up to the end offset that a read_committed reader is shown. */
async function all(name, { count, readUncommitted = false, group = `reader-${stamp}-${Math.random()}` }) {
  const consumer = kafka.consumer({ groupId: group, readUncommitted, maxWaitTimeInMs: 100 });
  const found = [];
  await consumer.connect();
  await consumer.subscribe({ topic: name, fromBeginning: true });
  await consumer.run({ eachMessage: async ({ message }) => void found.push(message.value.toString()) });
  await until(() => found.length >= count);
  await sleep(300);
  await consumer.disconnect();
  return found;
}

const scenarios = {
  async plainProducer() {
    const name = await topic("plain");
    const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
    await producer.connect();
    for (const compression of [CompressionTypes.None, CompressionTypes.GZIP])
      for (const acks of [0, 1, -1]) await producer.send({ topic: name, acks, compression, messages: numbers(5) });
    await producer.disconnect();
    assert.equal((await all(name, { count: 30 })).length, 30);
  },

  async idempotentProducer() {
    const name = await topic("idempotent");
    const producer = kafka.producer({ idempotent: true, createPartitioner: Partitioners.DefaultPartitioner });
    await producer.connect();
    for (let batch = 0; batch < 20; batch++) await producer.send({ topic: name, messages: numbers(10, batch * 10) });
    await producer.disconnect();
    assert.deepEqual(await all(name, { count: 200 }), numbers(200).map((each) => each.value));
  },

  async transactionsCommitAndAbort() {
    const name = await topic("transactions");
    const producer = transactional(`id-${stamp}`);
    await producer.connect();
    const expected = [];
    for (let number = 0; number < 12; number++) {
      const transaction = await producer.transaction();
      await transaction.send({ topic: name, messages: numbers(5, number * 5) });
      if (number % 3 === 0) {
        await transaction.abort();
      } else {
        await transaction.commit();
        expected.push(...numbers(5, number * 5).map((each) => each.value));
      }
    }
    await producer.disconnect();
    assert.deepEqual(await all(name, { count: 40 }), expected);
    assert.equal((await all(name, { count: 60, readUncommitted: true })).length, 60);
  },

  async offsetsInTheTransaction() {
    const name = await topic("offsets");
    const producer = transactional(`offsets-${stamp}`);
    await producer.connect();
    const groupId = `offsets-group-${stamp}`;
    for (const [offset, commits] of [["3", true], ["5", false]]) {
      const transaction = await producer.transaction();
      const topics = [{ topic: name, partitions: [{ partition: 0, offset }] }];
      await transaction.sendOffsets({ consumerGroupId: groupId, topics });
      await (commits ? transaction.commit() : transaction.abort());
    }
    await producer.disconnect();
    const [stored] = await admin.fetchOffsets({ groupId, topics: [name] });
    assert.equal(stored.partitions[0].offset, "3");
  },

  async anotherInstanceFencesTheFirst() {
    const name = await topic("fence");
    const [first, second] = [transactional(`fence-${stamp}`), transactional(`fence-${stamp}`)];
    await first.connect();
    const open = await first.transaction();
    await open.send({ topic: name, messages: [{ value: "never" }] });
    await second.connect();
    const next = await second.transaction();
    await assert.rejects(open.commit(), /epoch|fenced|id mapping/i);
    await next.send({ topic: name, messages: [{ value: "second" }] });
    await next.commit();
    await Promise.all([first.disconnect(), second.disconnect()]);
    assert.deepEqual(await all(name, { count: 1 }), ["second"]);
  },

  async groupsRebalance() {
    const name = await topic("groups", 4);
    const groupId = `groups-${stamp}`;
    const found = [];
    const members = [0, 1, 2].map(() => kafka.consumer({ groupId, maxWaitTimeInMs: 100, rebalanceTimeout: 5000 }));
    for (const member of members) {
      await member.connect();
      await member.subscribe({ topic: name, fromBeginning: true });
      await member.run({ eachMessage: async ({ message }) => void found.push(message.value.toString()) });
    }
    const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
    await producer.connect();
    for (let number = 0; number < 100; number++)
      await producer.send({ topic: name, messages: [{ value: String(number), partition: number % 4 }] });
    await until(() => found.length >= 100);
    await Promise.all([producer, ...members].map((each) => each.disconnect()));
    assert.deepEqual(found.map(Number).sort((one, other) => one - other), numbers(100).map((each) => Number(each.value)));
  },

  async aGroupGoesOnWhereItWas() {
    const name = await topic("goes-on");
    const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
    await producer.connect();
    await producer.send({ topic: name, messages: numbers(10) });
    assert.equal((await all(name, { count: 10, group: `goes-on-${stamp}` })).length, 10);
    await producer.send({ topic: name, messages: numbers(5, 10) });
    await producer.disconnect();
    assert.deepEqual(await all(name, { count: 5, group: `goes-on-${stamp}` }), numbers(5, 10).map((each) => each.value));
  },

  async adminOfTopics() {
    const name = await topic("admin", 2);
    await admin.createPartitions({ topicPartitions: [{ topic: name, count: 3 }] });
    const { topics } = await admin.fetchTopicMetadata({ topics: [name] });
    assert.equal(topics[0].partitions.length, 3);
    const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner });
    await producer.connect();
    await producer.send({ topic: name, messages: numbers(9).map((each) => ({ ...each, partition: 1 })) });
    await producer.disconnect();
    await admin.deleteTopicRecords({ topic: name, partitions: [{ partition: 1, offset: "4" }] });
    const offsets = await admin.fetchTopicOffsets(name);
    const one = offsets.find((each) => each.partition === 1);
    assert.deepEqual([one.low, one.high], ["4", "9"]);
    const byTime = await admin.fetchTopicOffsetsByTimestamp(name, 0);
    assert.equal(byTime.find((each) => each.partition === 1).offset, "4");
    await admin.deleteTopics({ topics: [name] });
    assert.ok(!(await admin.listTopics()).includes(name));
  },

  async adminOfSettings() {
    const name = await topic("settings");
    const resource = { type: 2, name };
    await admin.alterConfigs({ resources: [{ ...resource, configEntries: [{ name: "retention.ms", value: "5000" }] }] });
    const { resources } = await admin.describeConfigs({ resources: [{ ...resource, configNames: ["retention.ms"] }] });
    assert.equal(resources[0].configEntries[0].configValue, "5000");
    assert.equal((await admin.describeCluster()).brokers.length, 1);
  },

  async adminOfGroups() {
    const name = await topic("admin-groups");
    const groupId = `admin-groups-${stamp}`;
    await admin.setOffsets({ groupId, topic: name, partitions: [{ partition: 0, offset: "7" }] });
    const [stored] = await admin.fetchOffsets({ groupId, topics: [name] });
    assert.equal(stored.partitions[0].offset, "7");
    assert.ok((await admin.listGroups()).groups.some((each) => each.groupId === groupId));
    assert.equal((await admin.describeGroups([groupId])).groups[0].state, "Empty");
    await admin.deleteGroups([groupId]);
    assert.ok(!(await admin.listGroups()).groups.some((each) => each.groupId === groupId));
  },
};

admin.connect().then(() => play(scenarios));
