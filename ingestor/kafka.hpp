// A Kafka topic as a feed: JSON messages become rows of the table, exactly once. Hides librdkafka; promises
// that the table holds each event of the topic once, whatever dies when, and however many consumers of a
// group share the partitions.
//
// Each partition that the group gives to this process has a writer of its own, whose position is the next
// offset, committed with the rows, and whose advisory lock keeps a consumer that has lost the partition from
// writing on: the next one waits for the lock, and then goes on after what is committed. Kafka's own
// committed offsets are not used.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "config.hpp"

namespace tick::ingest {

// The columns of a message shape by name ("binance-prices", "clean_trades", "yahoo"), or as they are given.
std::string columns_of_shape(std::string_view text);
// The shape that is known to be in a topic of that name (binance-prices, raw_trades, clean_trades,
// data_stream); "" otherwise.
std::string_view shape_of_topic(std::string_view topic);

// Runs until SIGTERM or SIGINT; the process's exit code.
int run_kafka(const Config& config);

// What is wrong with brokers, topic or messages: (setting, what, cure); `note` is called with what is good.
struct KafkaFinding {
  std::string key;
  std::string what;
  std::string cure;
};
std::vector<KafkaFinding> check_kafka(const Config& config,
                                      const std::function<void(const std::string&)>& good);

}  // namespace tick::ingest
