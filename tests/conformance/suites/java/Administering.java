import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

import org.apache.kafka.clients.admin.AbortTransactionSpec;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.DescribeConfigsOptions;
import org.apache.kafka.clients.admin.DescribeProducersOptions;
import org.apache.kafka.clients.admin.FeatureMetadata;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.ListTransactionsOptions;
import org.apache.kafka.clients.admin.MemberToRemove;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.admin.TransactionListing;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.consumer.CloseOptions;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.ApiException;
import org.apache.kafka.common.errors.ElectionNotNeededException;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.GroupSubscribedToTopicException;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.InvalidReplicationFactorException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.OffsetOutOfRangeException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.TransactionalIdNotFoundException;
import org.apache.kafka.common.errors.UnknownMemberIdException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.quota.ClientQuotaFilter;

/** The admin client: topics, settings, records, groups and, above all, transactions. */
final class Administering extends Checks {
    Administering(String bootstrap, Admin admin, String name) {
        super(bootstrap, admin, name);
    }

    public void clusterAndFeatures() throws Exception {
        var cluster = admin.describeCluster();
        same(1, cluster.nodes().get().size());
        truth(cluster.clusterId().get() != null && cluster.controller().get() != null, "no id or controller");
        FeatureMetadata features = admin.describeFeatures().featureMetadata().get();
        same((short) 2, features.finalizedFeatures().get("transaction.version").maxVersionLevel());
        truth(features.finalizedFeaturesEpoch().isPresent(), "no epoch of the features");
        truth(admin.metrics() != null, "no metrics");
    }

    public void topicsFromBirthToDeath() throws Exception {
        String topic = name + "-topic";
        NewTopic wanted = new NewTopic(topic, 3, (short) 1).configs(Map.of("cleanup.policy", "compact"));
        admin.createTopics(List.of(wanted), new CreateTopicsOptions().validateOnly(true)).all().get();
        truth(!admin.listTopics().names().get().contains(topic), "validateOnly made a topic");
        var made = admin.createTopics(List.of(wanted));
        same(3, made.numPartitions(topic).get());
        same("compact", made.config(topic).get().get("cleanup.policy").value());
        fails(() -> admin.createTopics(List.of(wanted)).all().get(), TopicExistsException.class);
        fails(() -> admin.createTopics(List.of(new NewTopic("bad name!", 1, (short) 1))).all().get(), InvalidTopicException.class);
        fails(() -> admin.createTopics(List.of(new NewTopic(name + "-rf", 1, (short) 3))).all().get(), InvalidReplicationFactorException.class);
        fails(() -> admin.createTopics(List.of(new NewTopic(name + "-none", 0, (short) 1))).all().get(), InvalidPartitionsException.class);
        fails(() -> admin.createTopics(List.of(new NewTopic(name + "-config", 1, (short) 1)
            .configs(Map.of("cleanup.policy", "sometimes")))).all().get(), InvalidConfigurationException.class);
        TopicDescription description = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
        same(made.topicId(topic).get(), description.topicId());
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
        same(5, admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size());
        fails(() -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get(), InvalidPartitionsException.class);
        same(topic, admin.describeTopics(TopicCollection.ofTopicIds(List.of(description.topicId()))).allTopicIds().get()
            .get(description.topicId()).name());
        admin.deleteTopics(TopicCollection.ofTopicIds(List.of(description.topicId()))).all().get();
        fails(() -> admin.describeTopics(List.of(topic)).allTopicNames().get(), UnknownTopicOrPartitionException.class);
        fails(() -> admin.deleteTopics(List.of(topic)).all().get(), UnknownTopicOrPartitionException.class);
    }

    public void topicSettings() throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic("topic", 1));
        alter(resource, "retention.ms", "123456", AlterConfigOp.OpType.SET);
        alter(resource, "cleanup.policy", "compact", AlterConfigOp.OpType.APPEND);
        var options = new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true);
        var config = admin.describeConfigs(List.of(resource), options).all().get().get(resource);
        same("123456", config.get("retention.ms").value());
        same(ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, config.get("retention.ms").source());
        same(ConfigEntry.ConfigType.LONG, config.get("retention.ms").type());
        same("retention.ms", config.get("retention.ms").synonyms().get(0).name());
        truth(config.get("retention.ms").documentation() != null, "no documentation");
        same("delete,compact", config.get("cleanup.policy").value());
        alter(resource, "cleanup.policy", "delete", AlterConfigOp.OpType.SUBTRACT);
        alter(resource, "retention.ms", "", AlterConfigOp.OpType.DELETE);
        config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
        same("compact", config.get("cleanup.policy").value());
        same("604800000", config.get("retention.ms").value());
        fails(() -> {
            alter(resource, "retention.ms", "soon", AlterConfigOp.OpType.SET);
            return null;
        }, InvalidConfigurationException.class);
        truth(admin.listConfigResources().all().get().stream().anyMatch(each -> each.name().equals(resource.name())), "not listed");
    }

    private void alter(ConfigResource resource, String setting, String value, AlterConfigOp.OpType kind) throws Exception {
        Collection<AlterConfigOp> changes = List.of(new AlterConfigOp(new ConfigEntry(setting, value), kind));
        admin.incrementalAlterConfigs(Map.of(resource, changes)).all().get();
    }

    public void brokerSettings() throws Exception {
        int node = admin.describeCluster().nodes().get().iterator().next().id();
        ConfigResource resource = new ConfigResource(ConfigResource.Type.BROKER, "" + node);
        var config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
        truth(config.get("transaction.max.timeout.ms") != null, "no transaction.max.timeout.ms");
        truth(config.get("log.retention.ms") != null, "no log.retention.ms");
    }

    public void recordsAreDeleted() throws Exception {
        String topic = topic("records", 1);
        TopicPartition partition = new TopicPartition(topic, 0);
        try (KafkaProducer<String, String> producer = producer()) {
            for (int number = 0; number < 20; number++)
                send(producer, topic, 0, "" + number);
        }
        same(7L, admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(7))).lowWatermarks().get(partition).get().lowWatermark());
        same("7", all(topic, "read_committed").get(0));
        fails(() -> admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(21))).all().get(), OffsetOutOfRangeException.class);
        same(20L, admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(-1))).lowWatermarks().get(partition).get().lowWatermark());
        same(List.of(), all(topic, "read_committed"));
    }

    public void everyKindOfOffset() throws Exception {
        String topic = topic("records", 1);
        try (KafkaProducer<String, String> producer = producer()) {
            for (long time : new long[] {5000, 9000, 7000})
                producer.send(new ProducerRecord<>(topic, 0, time, null, "x")).get();
        }
        same(0L, offset(topic, OffsetSpec.earliest()).offset());
        same(3L, offset(topic, OffsetSpec.latest()).offset());
        same(1L, offset(topic, OffsetSpec.maxTimestamp()).offset());
        same(1L, offset(topic, OffsetSpec.forTimestamp(6000)).offset());
        same(9000L, offset(topic, OffsetSpec.forTimestamp(6000)).timestamp());
        same(-1L, offset(topic, OffsetSpec.forTimestamp(10_000)).offset());
        same(0L, offset(topic, OffsetSpec.earliestLocal()).offset());
        same(-1L, offset(topic, OffsetSpec.latestTiered()).offset());
    }

    private ListOffsetsResultInfo offset(String topic, OffsetSpec kind) throws Exception {
        TopicPartition partition = new TopicPartition(topic, 0);
        return admin.listOffsets(Map.of(partition, kind)).partitionResult(partition).get();
    }

    public void logDirectoriesAndReplicas() throws Exception {
        String topic = topic("records", 2);
        int node = admin.describeCluster().nodes().get().iterator().next().id();
        var folders = admin.describeLogDirs(List.of(node)).allDescriptions().get().get(node);
        truth(folders.values().stream().anyMatch(each -> each.replicaInfos().containsKey(new TopicPartition(topic, 1))), "no size of the partition");
        same(Map.of(), admin.listPartitionReassignments().reassignments().get());
        TopicPartition partition = new TopicPartition(topic, 0);
        var elected = admin.electLeaders(ElectionType.PREFERRED, Set.of(partition)).partitions().get().get(partition);
        same(ElectionNotNeededException.class, elected.map(Object::getClass).orElse(null));
    }

    public void openTransactionsAreSeenAndAborted() throws Exception {
        String topic = topic("records", 2);
        TopicPartition partition = new TopicPartition(topic, 1);
        try (KafkaProducer<String, String> producer = transactional("id")) {
            producer.beginTransaction();
            send(producer, topic, 1, "open");
            producer.flush();
            String id = name + "-id";
            TransactionDescription open = admin.describeTransactions(List.of(id)).description(id).get();
            same(TransactionState.ONGOING, open.state());
            same(Set.of(partition), open.topicPartitions());
            truth(open.transactionStartTimeMs().isPresent(), "no start");
            same(60_000L, open.transactionTimeoutMs());
            var byState = new ListTransactionsOptions().filterStates(Set.of(TransactionState.ONGOING)).filterOnTransactionalIdPattern(name + ".*");
            Collection<TransactionListing> listed = admin.listTransactions(byState).all().get();
            same(List.of(id), listed.stream().map(TransactionListing::transactionalId).toList());
            same(0, admin.listTransactions(new ListTransactionsOptions().filterOnDuration(600_000).filterProducerIds(Set.of(open.producerId()))).all().get().size());
            ProducerState state = admin.describeProducers(List.of(partition)).partitionResult(partition).get().activeProducers().get(0);
            same(open.producerId(), state.producerId());
            int coordinatorEpoch = state.coordinatorEpoch().orElse(0);
            admin.abortTransaction(new AbortTransactionSpec(partition, state.producerId(), (short) state.producerEpoch(), coordinatorEpoch)).all().get();
            same(Optional.empty(), currentStart(partition));
            same(List.of(), all(topic, "read_committed"));
            same(1, all(topic, "read_uncommitted").size());
        }
        fails(() -> admin.describeTransactions(List.of("nobody")).all().get(), TransactionalIdNotFoundException.class);
    }

    private Optional<Long> currentStart(TopicPartition partition) throws Exception {
        var start = admin.describeProducers(List.of(partition)).partitionResult(partition).get().activeProducers().get(0).currentTransactionStartOffset();
        return start.isPresent() ? Optional.of(start.getAsLong()) : Optional.empty();
    }

    public void producersAreFenced() throws Exception {
        fencing(() -> admin.fenceProducers(List.of(name + "-id")).all().get());
    }

    public void transactionsAreTerminated() throws Exception {
        fencing(() -> admin.forceTerminateTransaction(name + "-id").result().get());
    }

    private void fencing(java.util.concurrent.Callable<?> fence) throws Exception {
        String topic = topic("records", 1);
        KafkaProducer<String, String> producer = transactional("id");
        producer.beginTransaction();
        send(producer, topic, 0, "never");
        producer.flush();
        fence.call();
        fails(() -> {
            send(producer, topic, 0, "late");
            producer.commitTransaction();
            return null;
        }, ProducerFencedException.class, InvalidProducerEpochException.class);
        producer.close(java.time.Duration.ZERO);
        same(List.of(), all(topic, "read_committed"));
        String id = name + "-id";
        same(TransactionState.EMPTY, admin.describeTransactions(List.of(id)).description(id).get().state());
    }

    public void groupsAreDescribed() throws Exception {
        groups("classic");
    }

    public void modernGroupsAreDescribed() throws Exception {
        groups("consumer");
    }

    private void groups(String protocol) throws Exception {
        String topic = topic("records", 2);
        TopicPartition partition = new TopicPartition(topic, 0);
        String group = name + "-group";
        try (KafkaProducer<String, String> producer = producer()) {
            send(producer, topic, 0, "a", "b", "c");
        }
        try (KafkaConsumer<String, String> member = consumer("group", "group.protocol", protocol, "client.id", "teller")) {
            member.subscribe(List.of(topic));
            read(member, 3);
            member.commitSync();
            ConsumerGroupDescription stable = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
            same(GroupState.STABLE, stable.groupState());
            same(1, stable.members().size());
            var described = stable.members().iterator().next();
            same("teller", described.clientId());
            same(member.assignment(), described.assignment().topicPartitions());
            truth(admin.listGroups().all().get().stream().anyMatch(each -> each.groupId().equals(group)
                && each.type().map(type -> type.toString().equalsIgnoreCase(protocol)).orElse(false)), "not listed");
            fails(() -> admin.deleteConsumerGroups(List.of(group)).all().get(), GroupNotEmptyException.class);
            fails(() -> admin.deleteConsumerGroupOffsets(group, Set.of(partition)).all().get(), GroupSubscribedToTopicException.class);
            fails(() -> admin.alterConsumerGroupOffsets(group, Map.of(partition, new OffsetAndMetadata(1))).all().get(), UnknownMemberIdException.class);
        }
        same(GroupState.EMPTY, admin.describeConsumerGroups(List.of(group)).all().get().get(group).groupState());
        same(3L, admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(partition).offset());
        admin.alterConsumerGroupOffsets(group, Map.of(partition, new OffsetAndMetadata(1, "back"))).all().get();
        same("back", admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(partition).metadata());
        admin.deleteConsumerGroupOffsets(group, Set.of(partition)).all().get();
        same(null, admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(partition));
        admin.deleteConsumerGroups(List.of(group)).all().get();
        fails(() -> admin.describeConsumerGroups(List.of(group)).all().get(), GroupIdNotFoundException.class);
        fails(() -> admin.deleteConsumerGroups(List.of(group)).all().get(), GroupIdNotFoundException.class);
    }

    public void membersAreRemoved() throws Exception {
        String topic = topic("records", 1);
        String group = name + "-group";
        KafkaConsumer<String, String> member = consumer("group", "group.instance.id", "one");
        member.subscribe(List.of(topic));
        eventually(() -> member.poll(SHORT).isEmpty() && !member.assignment().isEmpty(), "an assignment");
        admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions(List.of(new MemberToRemove("one")))).all().get();
        same(GroupState.EMPTY, admin.describeConsumerGroups(List.of(group)).all().get().get(group).groupState());
        member.close(CloseOptions.timeout(java.time.Duration.ZERO));
    }

    public void classicGroupsAreDescribedAsSuch() throws Exception {
        String topic = topic("records", 1);
        String group = name + "-group";
        try (KafkaConsumer<String, String> member = consumer("group")) {
            member.subscribe(List.of(topic));
            eventually(() -> member.poll(SHORT).isEmpty() && !member.assignment().isEmpty(), "an assignment");
            var described = admin.describeClassicGroups(List.of(group)).all().get().get(group);
            same("consumer", described.protocol());
            same("range", described.protocolData());
        }
    }

    public void accessControlLists() throws Exception {
        admin.describeAcls(AclBindingFilter.ANY).values().get();
    }

    public void usersOfScram() throws Exception {
        admin.describeUserScramCredentials().all().get();
    }

    public void quotas() throws Exception {
        admin.describeClientQuotas(ClientQuotaFilter.all()).entities().get();
    }

    public void quorum() throws Exception {
        admin.describeMetadataQuorum().quorumInfo().get();
    }

    public void shareGroups() throws Exception {
        fails(() -> admin.describeShareGroups(List.of(name + "-share")).all().get(), GroupIdNotFoundException.class);
    }
}
