import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** What the scenarios share: clients with sensible settings, names of their own, checks that say what was seen. */
abstract class Checks {
    static final Duration SHORT = Duration.ofMillis(100);
    static final long PATIENCE_MS = 30_000;

    final String bootstrap;
    final Admin admin;
    /** What this scenario calls its own; topics, groups and ids begin with it. */
    final String name;

    Checks(String bootstrap, Admin admin, String name) {
        this.bootstrap = bootstrap;
        this.admin = admin;
        this.name = name;
    }

    String topic(String suffix, int partitions) throws Exception {
        String topic = name + "-" + suffix;
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
        return topic;
    }

    KafkaProducer<String, String> producer(Object... settings) {
        Map<String, Object> all = new HashMap<>();
        all.put("bootstrap.servers", bootstrap);
        all.put("linger.ms", 1);
        all.put("max.block.ms", 20_000);
        add(all, settings);
        return new KafkaProducer<>(all, new StringSerializer(), new StringSerializer());
    }

    KafkaProducer<String, String> transactional(String suffix, Object... settings) {
        Map<String, Object> all = new HashMap<>();
        all.put("bootstrap.servers", bootstrap);
        all.put("transactional.id", name + "-" + suffix);
        all.put("linger.ms", 1);
        all.put("max.block.ms", 20_000);
        add(all, settings);
        KafkaProducer<String, String> producer =
            new KafkaProducer<>(all, new StringSerializer(), new StringSerializer());
        producer.initTransactions();
        return producer;
    }

    KafkaConsumer<String, String> consumer(String suffix, Object... settings) {
        Map<String, Object> all = new HashMap<>();
        all.put("bootstrap.servers", bootstrap);
        all.put("group.id", name + "-" + suffix);
        all.put("auto.offset.reset", "earliest");
        all.put("enable.auto.commit", false);
        all.put("isolation.level", "read_committed");
        all.put("fetch.max.wait.ms", 100);
        add(all, settings);
        return new KafkaConsumer<>(all, new StringDeserializer(), new StringDeserializer());
    }

    private static void add(Map<String, Object> all, Object... settings) {
        for (int index = 0; index < settings.length; index += 2)
            all.put((String) settings[index], settings[index + 1]);
    }

    static void send(KafkaProducer<String, String> producer, String topic, int partition, String... values) {
        for (String value : values)
            producer.send(new ProducerRecord<>(topic, partition, null, value));
    }

    /** Polls until that many records are there, then once more: none may follow. */
    static List<ConsumerRecord<String, String>> read(KafkaConsumer<String, String> consumer, int count) {
        List<ConsumerRecord<String, String>> records = new ArrayList<>();
        long deadline = System.currentTimeMillis() + PATIENCE_MS;
        while (records.size() < count) {
            if (System.currentTimeMillis() > deadline)
                throw new AssertionError("only " + records.size() + " of " + count + " records: " + values(records));
            consumer.poll(SHORT).forEach(records::add);
        }
        consumer.poll(SHORT).forEach(records::add);
        same(count, records.size());
        return records;
    }

    /** All values of a topic, as a reader with that isolation sees them now, partition by partition. */
    List<String> all(String topic, String isolation) {
        try (KafkaConsumer<String, String> reader = consumer("reader", "isolation.level", isolation)) {
            List<TopicPartition> partitions = reader.partitionsFor(topic).stream()
                .map(each -> new TopicPartition(topic, each.partition())).toList();
            reader.assign(partitions);
            reader.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = reader.endOffsets(partitions);
            Map<Integer, List<String>> found = new java.util.TreeMap<>();
            long deadline = System.currentTimeMillis() + PATIENCE_MS;
            while (partitions.stream().anyMatch(each -> reader.position(each) < ends.get(each))) {
                truth(System.currentTimeMillis() < deadline, "the end is not reached: " + ends);
                for (ConsumerRecord<String, String> record : reader.poll(SHORT))
                    found.computeIfAbsent(record.partition(), key -> new ArrayList<>()).add(record.value());
            }
            return found.values().stream().flatMap(Collection::stream).toList();
        }
    }

    static List<String> values(Collection<ConsumerRecord<String, String>> records) {
        return records.stream().map(ConsumerRecord::value).toList();
    }

    static void same(Object expected, Object seen) {
        if (!Objects.equals(expected, seen))
            throw new AssertionError("expected " + expected + ", seen " + seen);
    }

    static void truth(boolean holds, String what) {
        if (!holds)
            throw new AssertionError(what);
    }

    /** The call fails with one of these classes; the cause counts where a future wraps it. */
    static Throwable fails(Callable<?> call, Class<?>... kinds) {
        Throwable seen;
        try {
            Object value = call.call();
            throw new AssertionError("it succeeded: " + value);
        } catch (ExecutionException error) {
            seen = error.getCause();
        } catch (AssertionError error) {
            throw error;
        } catch (Throwable error) {
            seen = error;
        }
        for (Class<?> kind : kinds)
            if (kind.isInstance(seen) || (seen.getCause() != null && kind.isInstance(seen.getCause())))
                return seen;
        throw new AssertionError("failed otherwise: " + seen, seen);
    }

    static void eventually(Callable<Boolean> condition, String what) throws Exception {
        long deadline = System.currentTimeMillis() + PATIENCE_MS;
        while (!condition.call()) {
            truth(System.currentTimeMillis() < deadline, "not within " + PATIENCE_MS + " ms: " + what);
            Thread.sleep(50);
        }
    }
}
