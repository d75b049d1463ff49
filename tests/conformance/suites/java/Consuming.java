import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Pattern;
import java.util.stream.IntStream;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.CloseOptions;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.FencedInstanceIdException;

/** The consumer: positions, isolation, groups of the classic protocol and of KIP-848. */
final class Consuming extends Checks {
    private static final Object[] MODERN = {"group.protocol", "consumer"};
    private static final Object[] COOPERATIVE = {"partition.assignment.strategy", CooperativeStickyAssignor.class.getName()};
    private static final Object[] RANGE = {"partition.assignment.strategy", RangeAssignor.class.getName()};

    Consuming(String bootstrap, Admin admin, String name) {
        super(bootstrap, admin, name);
    }

    private void fill(String topic, int partitions, int count) {
        try (KafkaProducer<String, String> producer = producer()) {
            for (int number = 0; number < count; number++)
                send(producer, topic, number % partitions, "" + number);
        }
    }

    public void positionsAndTimes() throws Exception {
        String topic = topic("records", 1);
        TopicPartition partition = new TopicPartition(topic, 0);
        try (KafkaProducer<String, String> producer = producer()) {
            for (int number = 0; number < 100; number++)
                producer.send(new ProducerRecord<>(topic, 0, 10_000L * number, null, "" + number)).get();
        }
        KafkaProducer<String, String> open = transactional("open");
        open.beginTransaction();
        open.send(new ProducerRecord<>(topic, 0, 2_000_000L, null, "open"));
        open.flush();
        for (String isolation : List.of("read_committed", "read_uncommitted"))
            try (KafkaConsumer<String, String> reader = consumer("group", "isolation.level", isolation)) {
                boolean committed = isolation.equals("read_committed");
                reader.assign(List.of(partition));
                same(Map.of(partition, 0L), reader.beginningOffsets(List.of(partition)));
                same(Map.of(partition, committed ? 100L : 101L), reader.endOffsets(List.of(partition)));
                same(50L, reader.offsetsForTimes(Map.of(partition, 499_000L)).get(partition).offset());
                same(null, reader.offsetsForTimes(Map.of(partition, 3_000_000L)).get(partition));
                if (committed)
                    same(null, reader.offsetsForTimes(Map.of(partition, 1_500_000L)).get(partition));
                reader.seek(partition, 42);
                same("42", read(reader, committed ? 58 : 59).get(0).value());
                reader.seekToBeginning(List.of(partition));
                same(0L, reader.position(partition));
                reader.seekToEnd(List.of(partition));
                same(committed ? 100L : 101L, reader.position(partition));
            }
        open.abortTransaction();
        open.close();
    }

    public void anOffsetOutOfRangeIsTold() throws Exception {
        String topic = topic("records", 1);
        fill(topic, 1, 5);
        TopicPartition partition = new TopicPartition(topic, 0);
        try (KafkaConsumer<String, String> reader = consumer("group", "auto.offset.reset", "none")) {
            reader.assign(List.of(partition));
            reader.seek(partition, 1000);
            fails(() -> {
                for (int round = 0; round < 50; round++)
                    reader.poll(SHORT);
                return "nothing";
            }, OffsetOutOfRangeException.class);
        }
    }

    public void onlyCommittedRecordsAreRead() throws Exception {
        String topic = topic("records", 1);
        List<String> expected = new ArrayList<>();
        try (KafkaProducer<String, String> aborting = transactional("a"); KafkaProducer<String, String> committing = transactional("b")) {
            for (int round = 0; round < 20; round++) {
                aborting.beginTransaction();
                committing.beginTransaction();
                for (int number = 0; number < 10; number++) {
                    send(number % 2 == 0 ? aborting : committing, topic, 0, round + "/" + number);
                    (number % 2 == 0 ? aborting : committing).flush();
                    if (number % 2 == 1)
                        expected.add(round + "/" + number);
                }
                if (round % 2 == 0) {
                    aborting.abortTransaction();
                    committing.commitTransaction();
                } else {
                    committing.commitTransaction();
                    aborting.abortTransaction();
                }
            }
        }
        same(expected, all(topic, "read_committed"));
        same(200, all(topic, "read_uncommitted").size());
    }

    public void smallFetchesReadAll() throws Exception {
        String topic = topic("records", 2);
        try (KafkaProducer<String, String> producer = producer("batch.size", 5000)) {
            for (int number = 0; number < 1000; number++)
                send(producer, topic, number % 2, "x".repeat(1 + number * 7 % 3000));
        }
        try (KafkaConsumer<String, String> reader = consumer("group", "fetch.max.bytes", 1000, "max.partition.fetch.bytes", 1000)) {
            reader.assign(List.of(new TopicPartition(topic, 0), new TopicPartition(topic, 1)));
            read(reader, 1000);
        }
    }

    public void classicCommittedOffsets() throws Exception {
        committedOffsets(RANGE);
    }

    public void modernCommittedOffsets() throws Exception {
        committedOffsets(MODERN);
    }

    private void committedOffsets(Object... protocol) throws Exception {
        String topic = topic("records", 1);
        fill(topic, 1, 20);
        TopicPartition partition = new TopicPartition(topic, 0);
        try (KafkaConsumer<String, String> reader = consumer("group", protocol)) {
            reader.subscribe(List.of(topic));
            read(reader, 20);
            reader.commitSync(Map.of(partition, new OffsetAndMetadata(7, "seven")));
            same("seven", reader.committed(Set.of(partition)).get(partition).metadata());
        }
        try (KafkaConsumer<String, String> reader = consumer("group", protocol)) {
            reader.subscribe(List.of(topic));
            same("7", read(reader, 13).get(0).value());
        }
    }

    public void classicAutoCommit() throws Exception {
        autoCommit(RANGE);
    }

    public void modernAutoCommit() throws Exception {
        autoCommit(MODERN);
    }

    private void autoCommit(Object... protocol) throws Exception {
        String topic = topic("records", 1);
        fill(topic, 1, 20);
        Object[] settings = {"enable.auto.commit", true, protocol[0], protocol[1]};
        try (KafkaConsumer<String, String> reader = consumer("group", settings)) {
            reader.subscribe(List.of(topic));
            read(reader, 20);
        }
        fill(topic, 1, 3);
        try (KafkaConsumer<String, String> reader = consumer("group", settings)) {
            reader.subscribe(List.of(topic));
            read(reader, 3);
        }
    }

    public void classicRangeRebalances() throws Exception {
        rebalances(RANGE);
    }

    public void classicCooperativeRebalances() throws Exception {
        rebalances(COOPERATIVE);
    }

    public void modernRebalances() throws Exception {
        rebalances(MODERN);
    }

    /** Members come and go; at last each partition has one owner, and nothing was read twice or left out. */
    private void rebalances(Object... protocol) throws Exception {
        String topic = topic("records", 6);
        List<KafkaConsumer<String, String>> members = new ArrayList<>();
        Set<String> seen = new HashSet<>();
        int count = 0;
        for (int round = 0; round < 5; round++) {
            if (round < 3) {
                members.add(consumer("group", protocol));
                members.get(round).subscribe(List.of(topic));
            } else {
                members.remove(0).close();
            }
            settle(members, topic, 6);
            try (KafkaProducer<String, String> producer = producer()) {
                for (int number = 0; number < 60; number++)
                    send(producer, topic, number % 6, round + "/" + number);
            }
            count += 60;
            long deadline = System.currentTimeMillis() + PATIENCE_MS;
            while (seen.size() < count) {
                truth(System.currentTimeMillis() < deadline, "only " + seen.size() + " of " + count);
                for (KafkaConsumer<String, String> member : members) {
                    for (ConsumerRecord<String, String> record : member.poll(Duration.ofMillis(20)))
                        truth(seen.add(record.value()), "twice: " + record.value());
                    member.commitSync();
                }
            }
        }
        members.forEach(KafkaConsumer::close);
    }

    /** Until every partition is owned by exactly one of them, evenly. */
    private static void settle(List<KafkaConsumer<String, String>> members, String topic, int partitions) throws Exception {
        Set<TopicPartition> wanted = new HashSet<>(IntStream.range(0, partitions).mapToObj(index -> new TopicPartition(topic, index)).toList());
        eventually(() -> {
            List<TopicPartition> owned = new ArrayList<>();
            for (KafkaConsumer<String, String> member : members) {
                ConsumerRecords<String, String> records = member.poll(Duration.ofMillis(20));
                same(0, records.count());
                owned.addAll(member.assignment());
            }
            return owned.size() == partitions && new HashSet<>(owned).equals(wanted)
                && members.stream().allMatch(each -> each.assignment().size() == partitions / members.size());
        }, "every partition owned once");
    }

    public void classicStaticMembers() throws Exception {
        String topic = topic("records", 4);
        fill(topic, 4, 40);
        KafkaConsumer<String, String> first = consumer("group", "group.instance.id", "one");
        first.subscribe(List.of(topic));
        read(first, 40);
        first.commitSync();
        Set<TopicPartition> before = first.assignment();
        try (KafkaConsumer<String, String> second = consumer("group", "group.instance.id", "one")) {
            second.subscribe(List.of(topic));
            eventually(() -> second.poll(SHORT).isEmpty() && second.assignment().equals(before), "the same assignment");
            fails(() -> {
                first.commitSync();
                return null;
            }, FencedInstanceIdException.class, CommitFailedException.class);
        }
        first.close(CloseOptions.timeout(Duration.ZERO));
    }

    public void modernStaticMembers() throws Exception {
        String topic = topic("records", 4);
        fill(topic, 4, 40);
        Object[] settings = {"group.instance.id", "one", "group.protocol", "consumer"};
        Set<TopicPartition> before;
        try (KafkaConsumer<String, String> first = consumer("group", settings)) {
            first.subscribe(List.of(topic));
            read(first, 40);
            first.commitSync();
            before = first.assignment();
        }
        try (KafkaConsumer<String, String> second = consumer("group", settings)) {
            second.subscribe(List.of(topic));
            eventually(() -> second.poll(SHORT).isEmpty() && second.assignment().equals(before), "the same assignment");
        }
    }

    public void classicSubscriptionByPattern() throws Exception {
        String one = topic("pattern-one", 1);
        fill(one, 1, 5);
        try (KafkaConsumer<String, String> reader = consumer("group", "metadata.max.age.ms", 300)) {
            reader.subscribe(Pattern.compile(Pattern.quote(name) + "-pattern-.*"));
            read(reader, 5);
            reader.commitSync();
            String two = topic("pattern-two", 1);
            fill(two, 1, 5);
            read(reader, 5);
        }
    }

    public void modernSubscriptionByPattern() throws Exception {
        String one = topic("pattern-one", 1);
        fill(one, 1, 5);
        try (KafkaConsumer<String, String> reader = consumer("group", MODERN)) {
            reader.subscribe(new SubscriptionPattern(name + "-pattern-.*"));
            read(reader, 5);
            reader.commitSync();
            String two = topic("pattern-two", 1);
            fill(two, 1, 5);
            read(reader, 5);
        }
    }

    public void classicTransactionalOffsetsWaitForTheirTransaction() throws Exception {
        transactionalOffsets(RANGE);
    }

    public void modernTransactionalOffsetsWaitForTheirTransaction() throws Exception {
        transactionalOffsets(MODERN);
    }

    private void transactionalOffsets(Object... protocol) throws Exception {
        String topic = topic("records", 1);
        fill(topic, 1, 10);
        TopicPartition partition = new TopicPartition(topic, 0);
        try (KafkaConsumer<String, String> reader = consumer("group", protocol); KafkaProducer<String, String> producer = transactional("id")) {
            reader.subscribe(List.of(topic));
            read(reader, 10);
            for (boolean commits : List.of(false, true)) {
                producer.beginTransaction();
                producer.sendOffsetsToTransaction(Map.of(partition, new OffsetAndMetadata(commits ? 5 : 3)), reader.groupMetadata());
                reader.poll(SHORT);
                fails(() -> reader.committed(Set.of(partition), Duration.ofMillis(500)), org.apache.kafka.common.errors.TimeoutException.class);
                if (commits)
                    producer.commitTransaction();
                else
                    producer.abortTransaction();
                OffsetAndMetadata stored = reader.committed(Set.of(partition)).get(partition);
                same(commits ? 5L : null, stored == null ? null : stored.offset());
            }
        }
    }

    /** KIP-447: a member that was left behind by a rebalance can't commit offsets in its transaction. */
    public void classicZombieMembersCannotCommit() throws Exception {
        zombies(RANGE);
    }

    public void modernZombieMembersCannotCommit() throws Exception {
        zombies(MODERN);
    }

    private void zombies(Object... protocol) throws Exception {
        String topic = topic("records", 1);
        fill(topic, 1, 10);
        TopicPartition partition = new TopicPartition(topic, 0);
        try (KafkaConsumer<String, String> reader = consumer("group", protocol); KafkaProducer<String, String> producer = transactional("id")) {
            reader.subscribe(List.of(topic));
            read(reader, 10);
            var old = reader.groupMetadata();
            reader.unsubscribe();
            producer.beginTransaction();
            fails(() -> {
                producer.sendOffsetsToTransaction(Map.of(partition, new OffsetAndMetadata(10)), old);
                producer.commitTransaction();
                return null;
            }, CommitFailedException.class);
            producer.abortTransaction();
            same(null, reader.committed(Set.of(partition)).get(partition));
        }
    }

    public void topicsArePublic() throws Exception {
        String topic = topic("records", 3);
        try (KafkaConsumer<String, String> reader = consumer("group")) {
            same(3, reader.listTopics().get(topic).size());
            same(new TreeSet<>(Set.of(0, 1, 2)), new TreeSet<>(reader.partitionsFor(topic).stream().map(each -> each.partition()).toList()));
        }
    }
}
