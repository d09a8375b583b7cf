// Every setting of tick-ingest, from four layers (defaults < TOML file < TICK_* environment < flags) into one
// immutable struct. All mistakes are collected, each named with its place ("tick.toml:7", "TICK_URL",
// "--url"). Pure: reads a text and a lookup function, opens no file, connects to nothing.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "calendar.hpp"
#include "columns.hpp"
#include "feed.hpp"

namespace tick::ingest {

struct Config {
  std::string feed = "binance";
  std::string url;                                          // the venue's own unless given
  std::vector<std::string> symbols;                         // as the exchange writes them
  std::map<std::string, std::string, std::less<>> aliases;  // the exchange's name -> the name in the table
  Stream stream = Stream::trade;
  std::string exchange;    // what the column `exchange` gets; the feed's name unless given
  std::string connection;  // name of the position in the database; derived from stream and host unless given
  bool tls_verify = true;
  std::string tls_ca;
  std::chrono::microseconds max_silence = std::chrono::seconds(60);
  std::chrono::microseconds max_data_silence{0};
  std::chrono::microseconds max_stream_silence{0};
  Calendar session;  // outside of it silence means nothing
  std::chrono::microseconds ping = std::chrono::seconds(15);
  std::chrono::microseconds max_age = std::chrono::minutes(23 * 60 + 50);
  std::size_t max_frame = 4u << 20;
  std::chrono::microseconds stop_when_idle{0};
  bool repair = true;
  std::string repair_url;  // derived from the venue or the address unless given
  std::chrono::microseconds repair_interval{0};
  std::string spool;
  std::size_t spool_limit = std::size_t{1} << 30;
  std::string listen;

  std::string brokers;  // of Kafka
  std::string topic;
  std::string group = "tick-ingest";
  std::string start = "earliest";              // where there is no position: earliest, latest or a time
  std::string columns;                         // which member of a JSON object is what
  std::string items;                           // where in an answer its objects are
  std::optional<std::chrono::minutes> zone;    // of times that tell none
  std::chrono::microseconds poll_interval{0};  // 0: what the server's budget allows

  std::string lexicon;     // file; empty: the built-in one
  std::string scorer_url;  // instead of the lexicon
  std::chrono::microseconds scorer_timeout = std::chrono::seconds(5);

  std::string database;
  std::string table = "trades";
  ColumnMap table_columns;  // empty: by their names
  std::size_t batch_rows = 10'000;
  std::chrono::microseconds batch_age = std::chrono::milliseconds(5);
  std::size_t ring = 1'000'000;
  std::chrono::microseconds drain = std::chrono::seconds(10);
  std::size_t partitions_ahead = 2;
};

// One setting: where it is written in each layer, and what it means.
struct Setting {
  const char* key;          // "batch.rows" in TOML
  const char* flag;         // "--batch-rows"
  const char* environment;  // "TICK_BATCH_ROWS"
  const char* help;
  // Stores the text, or says what is wrong with it ("must be ..., not ...").
  std::string (*apply)(Config& config, std::string_view text);
  std::string (*show)(const Config& config);
};

std::span<const Setting> settings();

struct ConfigSource {
  std::string toml;       // text of the file, may be empty
  std::string toml_name;  // how the file is called in messages
  std::function<std::optional<std::string>(const char* name)> environment;
  std::vector<std::pair<std::string, std::string>> flags;  // ("--batch-rows", "500")
  bool connects = true;  // false: nobody goes to the feed, whose address may be missing
};

struct ConfigResult {
  Config config;
  std::vector<std::string> mistakes;  // empty: the config is good
  // Where each setting that was given comes from, by key: "tick.toml:7", "TICK_URL", "--url".
  std::map<std::string, std::string, std::less<>> places;
};

ConfigResult read_config(const ConfigSource& source);

// The name under which positions of this config are stored when none is given: ids of one exchange must not
// be taken for those of another server.
std::string default_connection(const Config& config);

// The name that a symbol of the exchange has in the table.
std::string_view table_name(const Config& config, std::string_view symbol);

// A connection string or URL without its passwords, for logs.
std::string redact(std::string_view text);

// "A,B c" -> A B c, upper-cased.
std::vector<std::string> split_symbols(std::string_view text);

}  // namespace tick::ingest
