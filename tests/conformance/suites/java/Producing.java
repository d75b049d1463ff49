import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import java.util.stream.IntStream;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;

/** The producer: idempotent, transactional (TV2), and how it loses its right to write. */
final class Producing extends Checks {
    Producing(String bootstrap, Admin admin, String name) {
        super(bootstrap, admin, name);
    }

    public void idempotentProducerInOrder() throws Exception {
        String topic = topic("records", 3);
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        try (KafkaProducer<String, String> producer = producer("batch.size", 300, "max.in.flight.requests.per.connection", 5)) {
            for (int number = 0; number < 3000; number++)
                sent.add(producer.send(new ProducerRecord<>(topic, number % 3, null, "" + number)));
        }
        for (int number = 0; number < 3000; number++)
            same((long) number / 3, sent.get(number).get().offset());
        List<String> expected = IntStream.range(0, 3).boxed()
            .flatMap(index -> IntStream.range(0, 1000).mapToObj(number -> "" + (number * 3 + index))).toList();
        same(expected, all(topic, "read_committed"));
    }

    public void everyCompressionKeepsKeysHeadersAndTimes() throws Exception {
        String topic = topic("records", 1);
        for (String compression : List.of("none", "gzip", "snappy", "lz4", "zstd"))
            try (KafkaProducer<String, String> producer = producer("compression.type", compression)) {
                for (int number = 0; number < 20; number++)
                    producer.send(new ProducerRecord<>(topic, 0, 1000L + number, compression, number % 2 == 0 ? null : "v" + number,
                        List.of(new RecordHeader("h", ("" + number).getBytes(StandardCharsets.UTF_8)), new RecordHeader("null", null))));
            }
        try (KafkaConsumer<String, String> reader = consumer("group")) {
            reader.assign(List.of(new TopicPartition(topic, 0)));
            List<ConsumerRecord<String, String>> records = read(reader, 100);
            for (int index = 0; index < 100; index++) {
                int number = index % 20;
                ConsumerRecord<String, String> record = records.get(index);
                same(number % 2 == 0 ? null : "v" + number, record.value());
                same(1000L + number, record.timestamp());
                Header[] headers = record.headers().toArray();
                same("" + number, new String(headers[0].value(), StandardCharsets.UTF_8));
                same(null, headers[1].value());
            }
            same(List.of("none", "gzip", "snappy", "lz4", "zstd"), records.stream().map(ConsumerRecord::key).distinct().toList());
        }
    }

    public void transactionsCommitAndAbort() throws Exception {
        String topic = topic("records", 4);
        List<String> expected = new ArrayList<>();
        try (KafkaProducer<String, String> producer = transactional("id")) {
            for (int number = 0; number < 40; number++) {
                producer.beginTransaction();
                for (int partition = 0; partition < 4; partition++)
                    send(producer, topic, partition, number + "/" + partition);
                producer.flush(); // an abort drops what was not sent yet
                if (number % 3 == 0)
                    producer.abortTransaction();
                else
                    producer.commitTransaction();
            }
        }
        for (int partition = 0; partition < 4; partition++)
            for (int number = 0; number < 40; number++)
                if (number % 3 != 0)
                    expected.add(number + "/" + partition);
        same(expected, all(topic, "read_committed"));
        same(160, all(topic, "read_uncommitted").size());
    }

    /** KIP-890 part 2: each transaction ends with the next epoch, so the client speaks the second protocol. */
    public void epochGrowsWithEachTransaction() throws Exception {
        String topic = topic("records", 1);
        TopicPartition partition = new TopicPartition(topic, 0);
        try (KafkaProducer<String, String> producer = transactional("id")) {
            for (int number = 0; number < 4; number++) {
                producer.beginTransaction();
                send(producer, topic, 0, "" + number);
                producer.flush();
                ProducerState state = admin.describeProducers(List.of(partition)).partitionResult(partition).get()
                    .activeProducers().get(0);
                same(number, state.producerEpoch());
                same((long) number * 2, state.currentTransactionStartOffset().orElse(-1));
                producer.commitTransaction();
            }
        }
    }

    public void emptyTransactionsAreAllowed() throws Exception {
        String topic = topic("records", 1);
        try (KafkaProducer<String, String> producer = transactional("id")) {
            producer.beginTransaction();
            producer.commitTransaction();
            producer.beginTransaction();
            producer.abortTransaction();
            producer.beginTransaction();
            send(producer, topic, 0, "after");
            producer.commitTransaction();
        }
        same(List.of("after"), all(topic, "read_committed"));
    }

    public void offsetsAndOutputTogether() throws Exception {
        String source = topic("source", 2);
        String target = topic("target", 2);
        try (KafkaProducer<String, String> producer = producer()) {
            for (int number = 0; number < 200; number++)
                send(producer, source, number % 2, "" + number);
        }
        int copied = 0;
        for (int life = 0; copied < 200; life++) {
            try (KafkaProducer<String, String> producer = transactional("copier");
                 KafkaConsumer<String, String> reader = consumer("group", "max.poll.records", 17)) {
                reader.subscribe(List.of(source));
                copied += copySome(reader, producer, target, life);
            }
            truth(life < 100, "no end of lives");
        }
        same(200, all(target, "read_committed").size());
        same(200L, all(target, "read_committed").stream().distinct().count());
    }

    private int copySome(KafkaConsumer<String, String> reader, KafkaProducer<String, String> producer, String target, int life) {
        int copied = 0;
        for (int round = 0; round < 60; round++) {
            var records = reader.poll(SHORT);
            if (records.isEmpty())
                continue;
            producer.beginTransaction();
            for (ConsumerRecord<String, String> record : records)
                send(producer, target, record.partition(), record.value());
            Map<TopicPartition, OffsetAndMetadata> next = new java.util.HashMap<>(records.nextOffsets());
            producer.sendOffsetsToTransaction(next, reader.groupMetadata());
            if (life % 2 == 0) {
                producer.abortTransaction();
                return copied;
            }
            producer.commitTransaction();
            copied += records.count();
            if (copied % 2 == 0)
                return copied;
        }
        return copied;
    }

    public void anotherInstanceFencesRecordsOfTheFirst() throws Exception {
        fencing(true);
    }

    public void anotherInstanceFencesTheCommitOfTheFirst() throws Exception {
        fencing(false);
    }

    private void fencing(boolean sendsLate) throws Exception {
        String topic = topic("records", 1);
        KafkaProducer<String, String> first = transactional("id");
        first.beginTransaction();
        send(first, topic, 0, "never");
        first.flush();
        try (KafkaProducer<String, String> second = transactional("id")) {
            same(List.of(), all(topic, "read_committed"));
            fails(() -> {
                if (sendsLate)
                    send(first, topic, 0, "late");
                first.commitTransaction();
                return null;
            }, ProducerFencedException.class, InvalidProducerEpochException.class);
            second.beginTransaction();
            send(second, topic, 0, "second");
            second.commitTransaction();
        }
        first.close(Duration.ZERO);
        same(List.of("second"), all(topic, "read_committed"));
    }

    public void timedOutTransactionIsAborted() throws Exception {
        String topic = topic("records", 1);
        KafkaProducer<String, String> slow = transactional("id", "transaction.timeout.ms", 1000);
        slow.beginTransaction();
        send(slow, topic, 0, "never");
        slow.flush();
        TopicPartition partition = new TopicPartition(topic, 0);
        eventually(() -> admin.describeProducers(List.of(partition)).partitionResult(partition).get()
            .activeProducers().get(0).currentTransactionStartOffset().isEmpty(), "the timeout");
        fails(() -> {
            slow.commitTransaction();
            return null;
        }, KafkaException.class);
        slow.close(Duration.ZERO);
        try (KafkaProducer<String, String> next = transactional("id")) {
            next.beginTransaction();
            send(next, topic, 0, "next");
            next.commitTransaction();
        }
        same(List.of("next"), all(topic, "read_committed"));
    }

    public void oneTransactionOverManyPartitions() throws Exception {
        String topic = topic("records", 60);
        try (KafkaProducer<String, String> producer = transactional("id")) {
            for (int number = 0; number < 5; number++) {
                producer.beginTransaction();
                for (int partition = 0; partition < 60; partition++)
                    send(producer, topic, partition, "" + number);
                producer.commitTransaction();
            }
        }
        same(300, all(topic, "read_committed").size());
    }

    public void aRecordThatIsTooLargeIsRefused() throws Exception {
        String topic = topic("records", 1);
        String large = "x".repeat(1_200_000);
        try (KafkaProducer<String, String> producer = producer("max.request.size", 5_000_000)) {
            fails(() -> producer.send(new ProducerRecord<>(topic, 0, null, large)).get(), RecordTooLargeException.class);
            producer.send(new ProducerRecord<>(topic, 0, null, "small")).get();
        }
        same(List.of("small"), all(topic, "read_committed"));
    }

    /** A transaction that meets a refused record can be aborted, and the same producer goes on. */
    public void transactionGoesOnAfterAnAbortableError() throws Exception {
        String topic = topic("records", 1);
        String large = "x".repeat(1_200_000);
        try (KafkaProducer<String, String> producer = transactional("id", "max.request.size", 5_000_000)) {
            producer.beginTransaction();
            send(producer, topic, 0, "never");
            producer.send(new ProducerRecord<>(topic, 0, null, large));
            fails(() -> {
                producer.commitTransaction();
                return null;
            }, KafkaException.class);
            producer.abortTransaction();
            producer.beginTransaction();
            send(producer, topic, 0, "after");
            producer.commitTransaction();
        }
        same(List.of("after"), all(topic, "read_committed"));
    }

    public void acksOfEveryKind() throws Exception {
        String topic = topic("records", 1);
        for (String acks : List.of("0", "1", "all"))
            try (KafkaProducer<String, String> producer = producer("enable.idempotence", false, "acks", acks)) {
                for (int number = 0; number < 50; number++)
                    send(producer, topic, 0, acks + number);
                producer.flush();
            }
        eventually(() -> all(topic, "read_committed").size() == 150, "all records");
    }
}
