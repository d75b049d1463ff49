import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;

import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * A transactional producer that does what it is told, {@code Transactor BOOTSTRAP TRANSACTIONAL_ID}: one call a line of
 * stdin, words parted by tabs; it answers each with a line, {@code ok} or {@code error why}.
 */
public final class Transactor {
    private static final List<Future<RecordMetadata>> sent = new ArrayList<>();

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", arguments[0], "transactional.id", arguments[1],
            "linger.ms", 1, "retry.backoff.ms", 20, "reconnect.backoff.ms", 20, "reconnect.backoff.max.ms", 200);
        BufferedReader calls = new BufferedReader(new InputStreamReader(System.in));
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            producer.initTransactions();
            System.out.println("ok");
            for (String line = calls.readLine(); line != null; line = calls.readLine()) {
                try {
                    call(arguments[0], producer, line.split("\t"));
                    System.out.println("ok");
                } catch (Exception error) {
                    System.out.println("error " + error.toString().replace('\n', ' '));
                }
            }
        }
    }

    private static void call(String bootstrap, KafkaProducer<String, String> producer, String[] words) throws Exception {
        switch (words[0]) {
            case "begin" -> producer.beginTransaction();
            case "send" -> sent.add(producer.send(new ProducerRecord<>(words[1], Integer.valueOf(words[2]), null, words[3])));
            case "flush" -> {
                producer.flush();
                for (Future<RecordMetadata> each : sent)
                    each.get();
                sent.clear();
            }
            case "send_offset" -> producer.sendOffsetsToTransaction(
                Map.of(new TopicPartition(words[2], 0), new OffsetAndMetadata(Long.parseLong(words[3]))),
                outsider(bootstrap, words[1]));
            case "commit" -> producer.commitTransaction();
            case "abort" -> producer.abortTransaction();
            default -> throw new IllegalArgumentException(words[0]);
        }
    }

    /** What a consumer says of itself that is no member of its group. */
    private static ConsumerGroupMetadata outsider(String bootstrap, String group) {
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "group.id", group);
        try (KafkaConsumer<String, String> consumer =
                 new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            return consumer.groupMetadata();
        }
    }
}
