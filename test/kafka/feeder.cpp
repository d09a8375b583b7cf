// What the Kafka test does to its broker besides killing it: makes topics, fills them, and reads them back
// for comparison.
//
//   feeder create BROKERS TOPIC PARTITIONS
//   feeder fill BROKERS TOPIC COUNT RATE FIRST_ID   clean_trades messages of 20 symbols; RATE 0: at full
//   speed feeder send BROKERS TOPIC                       a message per line of stdin feeder ends BROKERS
//   TOPIC PARTITIONS            PARTITION LOW HIGH per line feeder dump BROKERS TOPIC PARTITIONS the
//   messages, one per line
#include <librdkafka/rdkafka.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>

namespace {

[[noreturn]] void die(const std::string& why) {
  std::fprintf(stderr, "feeder: %s\n", why.c_str());
  std::exit(1);
}

void set(rd_kafka_conf_t* conf, const char* name, const char* value) {
  char why[256];
  if (rd_kafka_conf_set(conf, name, value, why, sizeof why) != RD_KAFKA_CONF_OK) die(why);
}

rd_kafka_t* connect(rd_kafka_type_t type, const char* brokers) {
  rd_kafka_conf_t* conf = rd_kafka_conf_new();
  set(conf, "bootstrap.servers", brokers);
  set(conf, "log_level", "2");
  set(conf, "reconnect.backoff.max.ms", "500");
  if (type == RD_KAFKA_PRODUCER) {
    set(conf, "enable.idempotence", "true");  // once each, also when the broker dies in between
    set(conf, "linger.ms", "5");
    set(conf, "message.timeout.ms", "0");
    set(conf, "queue.buffering.max.messages", "1000000");
  } else {
    set(conf, "group.id", "feeder");
    set(conf, "enable.partition.eof", "true");
  }
  char why[256];
  rd_kafka_t* kafka = rd_kafka_new(type, conf, why, sizeof why);
  if (kafka == nullptr) die(why);
  return kafka;
}

void create(const char* brokers, const char* topic, int partitions) {
  rd_kafka_t* kafka = connect(RD_KAFKA_PRODUCER, brokers);
  char why[256];
  rd_kafka_NewTopic_t* wanted = rd_kafka_NewTopic_new(topic, partitions, 1, why, sizeof why);
  rd_kafka_queue_t* queue = rd_kafka_queue_new(kafka);
  rd_kafka_CreateTopics(kafka, &wanted, 1, nullptr, queue);
  rd_kafka_event_t* event = rd_kafka_queue_poll(queue, 30'000);
  if (event == nullptr || rd_kafka_event_error(event)) die("no answer to CreateTopics");
  std::size_t count = 0;
  const auto* result = rd_kafka_event_CreateTopics_result(event);
  const auto* topics = rd_kafka_CreateTopics_result_topics(result, &count);
  if (rd_kafka_topic_result_error(topics[0])) die(rd_kafka_topic_result_error_string(topics[0]));
}

void put(rd_kafka_t* kafka, const char* topic, const std::string& key, const std::string& text) {
  for (;;) {
    const auto code =
        rd_kafka_producev(kafka, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_KEY(key.data(), key.size()),
                          RD_KAFKA_V_VALUE(const_cast<char*>(text.data()), text.size()),
                          RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR) break;
    if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL) die(rd_kafka_err2str(code));
    rd_kafka_poll(kafka, 50);
  }
  rd_kafka_poll(kafka, 0);
}

void fill(const char* brokers, const char* topic, long count, double rate, long first) {
  rd_kafka_t* kafka = connect(RD_KAFKA_PRODUCER, brokers);
  const auto start = std::chrono::steady_clock::now();
  char text[400];
  for (long i = 0; i < count; ++i) {
    const long symbol = i % 20;
    const long id = first + i / 20;
    const long ms = 1'700'000'000'000 + (first * 20 + i) * 7;
    std::snprintf(text, sizeof text,
                  R"({"symbol":"SYM%02ldUSDT","price":%ld.%02ld,"quantity":0.%03ld,"trade_value_usdt":1.5,)"
                  R"("trade_time":"2023-11-14T22:13:20","timestamp_ms":%ld,"is_buyer_maker":%s,)"
                  R"("is_price_spike":false,"trade_id":%ld,"source":"binance"})",
                  symbol, 100 + symbol, id % 100, 1 + id % 999, ms, id % 2 ? "true" : "false", id);
    put(kafka, topic, "SYM" + std::to_string(symbol), text);
    if (rate > 0)
      std::this_thread::sleep_until(start + std::chrono::duration<double>(static_cast<double>(i) / rate));
  }
  if (rd_kafka_flush(kafka, 300'000) != RD_KAFKA_RESP_ERR_NO_ERROR) die("not everything was taken");
  std::printf("%ld sent\n", count);
}

void send_lines(const char* brokers, const char* topic) {
  rd_kafka_t* kafka = connect(RD_KAFKA_PRODUCER, brokers);
  std::string line;
  while (std::getline(std::cin, line)) put(kafka, topic, "", line);
  if (rd_kafka_flush(kafka, 60'000) != RD_KAFKA_RESP_ERR_NO_ERROR) die("not everything was taken");
}

void ends(const char* brokers, const char* topic, int partitions) {
  rd_kafka_t* kafka = connect(RD_KAFKA_CONSUMER, brokers);
  for (int partition = 0; partition < partitions; ++partition) {
    std::int64_t low = 0;
    std::int64_t high = 0;
    const auto code = rd_kafka_query_watermark_offsets(kafka, topic, partition, &low, &high, 30'000);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR) die(rd_kafka_err2str(code));
    std::printf("%d %lld %lld\n", partition, static_cast<long long>(low), static_cast<long long>(high));
  }
}

void dump(const char* brokers, const char* topic, int partitions) {
  rd_kafka_t* kafka = connect(RD_KAFKA_CONSUMER, brokers);
  rd_kafka_poll_set_consumer(kafka);
  rd_kafka_topic_partition_list_t* list = rd_kafka_topic_partition_list_new(partitions);
  for (int partition = 0; partition < partitions; ++partition)
    rd_kafka_topic_partition_list_add(list, topic, partition)->offset = RD_KAFKA_OFFSET_BEGINNING;
  rd_kafka_assign(kafka, list);
  for (int ended = 0; ended < partitions;) {
    rd_kafka_message_t* message = rd_kafka_consumer_poll(kafka, 30'000);
    if (message == nullptr) die("no more messages came");
    if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
      ++ended;
    else if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
      die(rd_kafka_message_errstr(message));
    else
      std::printf("%.*s\n", static_cast<int>(message->len), static_cast<const char*>(message->payload));
    rd_kafka_message_destroy(message);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc > 3 ? argv[1] : "";
  if (verb == "create" && argc == 5)
    create(argv[2], argv[3], std::atoi(argv[4]));
  else if (verb == "fill" && argc == 7)
    fill(argv[2], argv[3], std::atol(argv[4]), std::atof(argv[5]), std::atol(argv[6]));
  else if (verb == "send")
    send_lines(argv[2], argv[3]);
  else if (verb == "ends" && argc == 5)
    ends(argv[2], argv[3], std::atoi(argv[4]));
  else if (verb == "dump" && argc == 5)
    dump(argv[2], argv[3], std::atoi(argv[4]));
  else
    die("see the head of feeder.cpp");
  std::fflush(stdout);
  std::_Exit(0);  // librdkafka takes its time to close
}
