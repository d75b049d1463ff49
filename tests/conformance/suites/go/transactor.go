// A transactional producer of sarama that does what it is told: transactor BOOTSTRAP TRANSACTIONAL_ID. One call a line of stdin, words
// parted by tabs; it answers each with a line, "ok" or "error why".
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

func main() {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Producer.Idempotent = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Transaction.ID = os.Args[2]
	config.Producer.Retry.Max = 100
	config.Producer.Retry.Backoff = 20 * time.Millisecond
	config.Producer.Transaction.Retry.Max = 100
	config.Producer.Transaction.Retry.Backoff = 50 * time.Millisecond
	config.Metadata.Retry.Max = 100
	config.Metadata.Retry.Backoff = 50 * time.Millisecond
	config.Net.MaxOpenRequests = 1
	producer, err := sarama.NewSyncProducer([]string{os.Args[1]}, config)
	answer(err)
	if err != nil {
		os.Exit(1)
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer(call(producer, strings.Split(lines.Text(), "\t")))
	}
	producer.Close()
}

func answer(err error) {
	if err == nil {
		fmt.Println("ok")
	} else {
		fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", " "))
	}
}

func call(producer sarama.SyncProducer, words []string) error {
	switch words[0] {
	case "begin":
		return producer.BeginTxn()
	case "send":
		partition, _ := strconv.Atoi(words[2])
		_, _, err := producer.SendMessage(&sarama.ProducerMessage{
			Topic: words[1], Partition: int32(partition), Value: sarama.StringEncoder(words[3]),
		})
		return err
	case "flush":
		return nil
	case "send_offset":
		offset, _ := strconv.ParseInt(words[3], 10, 64)
		next := &sarama.PartitionOffsetMetadata{Partition: 0, Offset: offset}
		return producer.AddOffsetsToTxn(map[string][]*sarama.PartitionOffsetMetadata{words[2]: {next}}, words[1])
	case "commit":
		return producer.CommitTxn()
	case "abort":
		return producer.AbortTxn()
	}
	return fmt.Errorf("no such call: %s", words[0])
}
