// Group membership, partitions and their writers; see kafka.hpp. Threads: this one polls the consumer, obeys
// its rebalances and signals; each partition's lane has one that writes.
#include "kafka.hpp"

#include <signal.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <thread>

#include "chain.hpp"
#include "database.hpp"
#include "log.hpp"
#include "names.hpp"
#include "number.hpp"
#include "rejects.hpp"
#include "rows.hpp"
#include "run.hpp"
#include "status.hpp"

#if __has_include(<librdkafka/rdkafka.h>)
#include <librdkafka/rdkafka.h>
#define TICK_KAFKA 1
#endif

namespace tick::ingest {

std::string_view shape_of_topic(std::string_view topic) {
  if (topic == "binance-prices" || topic == "raw_trades" || topic == "clean_trades") return topic;
  return topic == "data_stream" ? "yahoo" : "";
}

std::string columns_of_shape(std::string_view text) {
  if (text == "binance-prices") return "symbol=symbol,ts=timestamp,price=price,qty=-";  // volume: of 24 hours
  if (text == "raw_trades" || text == "clean_trades")
    return "symbol=symbol,ts=timestamp_ms,price=price,qty=quantity,trade_id=trade_id,is_buyer_maker=is_buyer_"
           "maker";
  if (text == "yahoo") return "symbol=id,ts=time,price=price,qty=-,exchange=-";
  return std::string(text);
}

#ifdef TICK_KAFKA

namespace {

using Clock = std::chrono::steady_clock;

constexpr int poll_milliseconds = 50;
constexpr int ask_milliseconds = 5000;
constexpr int ask_at_start_milliseconds = 2000;  // again and again
constexpr auto drain_patience = std::chrono::seconds(5);
constexpr auto look_every = std::chrono::seconds(1);
constexpr auto log_interval = std::chrono::seconds(10);

struct Free {
  void operator()(rd_kafka_t* handle) const { rd_kafka_destroy(handle); }
  void operator()(rd_kafka_topic_partition_list_t* list) const {
    rd_kafka_topic_partition_list_destroy(list);
  }
  void operator()(rd_kafka_message_t* message) const { rd_kafka_message_destroy(message); }
};
using Handle = std::unique_ptr<rd_kafka_t, Free>;
using Partitions = std::unique_ptr<rd_kafka_topic_partition_list_t, Free>;
using Message = std::unique_ptr<rd_kafka_message_t, Free>;

class KafkaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
class NoBroker : public KafkaError {
 public:
  using KafkaError::KafkaError;
};

Timestamp now() {
  return std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now());
}

RowOptions row_options(const Config& config) {
  RowOptions options;
  std::string mistake;
  options.columns = parse_columns(config.columns, mistake).value_or(std::map<Role, std::string>());
  options.offset = config.zone;
  return options;
}

void set(rd_kafka_conf_t* conf, const char* name, const std::string& value) {
  char why[256];
  if (rd_kafka_conf_set(conf, name, value.c_str(), why, sizeof why) != RD_KAFKA_CONF_OK)
    throw KafkaError(std::string(name) + ": " + why);
}

Handle make_consumer(rd_kafka_conf_t* conf, const Config& config) {
  set(conf, "bootstrap.servers", config.brokers);
  set(conf, "group.id", config.group);
  set(conf, "client.id", "tick-ingest");
  set(conf, "enable.auto.commit", "false");
  set(conf, "enable.auto.offset.store", "false");
  set(conf, "auto.offset.reset", "error");
  set(conf, "allow.auto.create.topics", "false");
  set(conf, "session.timeout.ms", "10000");
  set(conf, "reconnect.backoff.max.ms", "2000");
  set(conf, "log_level", "3");
  char why[256];
  rd_kafka_t* handle = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
  if (handle == nullptr) {
    rd_kafka_conf_destroy(conf);
    throw KafkaError(why);
  }
  rd_kafka_poll_set_consumer(handle);
  return Handle(handle);
}

// How many partitions the topic has; throws with near names when there is no such topic.
int partitions_of(rd_kafka_t* kafka, const Config& config, int milliseconds) {
  const rd_kafka_metadata_t* data = nullptr;
  const auto code = rd_kafka_metadata(kafka, 1, nullptr, &data, milliseconds);
  if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
    throw NoBroker("no broker answers at " + config.brokers + ": " + rd_kafka_err2str(code));
  std::vector<std::string> names;
  int count = 0;
  for (int i = 0; i < data->topic_cnt; ++i) {
    names.emplace_back(data->topics[i].topic);
    if (names.back() == config.topic) count = data->topics[i].partition_cnt;
  }
  rd_kafka_metadata_destroy(data);
  if (count > 0) return count;
  std::erase_if(names, [](const std::string& name) { return name.starts_with("__"); });
  std::string text = "there is no topic \"" + config.topic + "\" at " + config.brokers;
  if (const auto near = nearest(config.topic, names); !near.empty()) {
    text += "; did you mean \"" + near + "\"?";
  } else if (!names.empty()) {
    text += "; there are";
    for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 8); ++i) text += " " + names[i];
  }
  throw KafkaError(text);
}

struct Ends {
  std::int64_t low = 0;
  std::int64_t high = 0;
};

Ends ends_of(rd_kafka_t* kafka, const std::string& topic, int partition, int milliseconds) {
  Ends ends;
  const auto code =
      rd_kafka_query_watermark_offsets(kafka, topic.c_str(), partition, &ends.low, &ends.high, milliseconds);
  if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
    throw KafkaError("the ends of partition " + std::to_string(partition) + " of " + topic +
                     " are not known: " + rd_kafka_err2str(code));
  return ends;
}

// One partition on its way into the table. start() to stop(); the poller alone calls offer() and retry().
class Lane {
 public:
  Lane(const Config& config, rd_kafka_t* kafka, int partition, std::size_t ring, Stats& stats)
      : config_(config),
        kafka_(kafka),
        partition_(partition),
        stats_(stats),
        ring_(ring, std::min(config.batch_rows, ring), config.batch_age),
        writer_(options(config, partition), stats, abandon_),
        thread_([this] { write_all(); }) {}
  ~Lane() { stop(); }

  int partition() const { return partition_; }
  // Once the position is known: where to begin.
  std::optional<std::int64_t> begin() const { return ready_ ? std::optional(begin_.load()) : std::nullopt; }
  bool running = false;      // the consumer reads it
  bool paused = false;       // there is no room
  std::int64_t next = 0;     // offset of the message that is expected
  std::int64_t offered = 0;  // the record of the last tick

  // False when there is no room: the ticks are kept, and no more may be offered before retry() is true.
  bool offer(std::vector<Tick>& ticks) {
    const std::size_t taken = ring_.push(ticks);
    kept_.insert(kept_.end(), ticks.begin() + static_cast<std::ptrdiff_t>(taken), ticks.end());
    return kept_.empty();
  }
  bool retry() {
    const std::size_t taken = ring_.push(kept_);
    kept_.erase(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(taken));
    return kept_.empty();
  }
  std::size_t waiting() const { return ring_.size() + kept_.size(); }
  // The offset up to which nothing is left to do: what made no tick is not stored.
  std::int64_t done() const {
    const auto committed = static_cast<std::int64_t>(writer_.position().record);
    return committed >= offered ? std::max(committed, next) : committed;
  }
  bool ended() const { return ended_; }
  const std::string& failure() const { return failure_; }  // once ended

  void close() { ring_.close(); }
  // Commits what is in memory when that is quickly done; otherwise the partition's next owner reads it again.
  void stop() {
    if (!thread_.joinable()) return;
    ring_.close();
    const auto until = Clock::now() + drain_patience;
    while (!ended_ && ready_ && Clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    abandon_ = true;
    thread_.join();
  }

 private:
  static WriterOptions options(const Config& config, int partition) {
    WriterOptions options = writer_options(config);
    options.feed = "kafka";
    options.connection = (config.connection.empty() ? config.group : config.connection) + "/" + config.topic +
                         "/" + std::to_string(partition);
    options.replay = true;  // a partition is like a file: record N is the message with offset N - 1
    return options;
  }

  void write_all() {
    try {
      open();
      ready_ = true;
      std::vector<Tick> batch;
      while (ring_.take(batch)) writer_.write(batch);
    } catch (const Abandoned&) {
    } catch (const std::exception& error) {
      failure_ = "partition " + std::to_string(partition_) + ": " + error.what();
    }
    ended_ = true;
    wake_supervision();
  }

  // Patient with a broker, or a database, that is away for a moment.
  void open() {
    for (;;) {
      try {
        writer_.open();
        begin_ = find_begin();
        return;
      } catch (const KafkaError& error) {
        log::warn(error.what());
      } catch (const DatabaseError& error) {
        if (!error.connection_lost()) throw;
        log::warn(error.what());
      } catch (const FatalError& error) {
        if (stats_.batches == 0) throw;
        log::error(error.what());
      }
      for (int i = 0; i < 50; ++i) {
        if (abandon_) throw Abandoned();
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
  }

  std::int64_t find_begin() {
    const Ends ends = ends_of(kafka_, config_.topic, partition_, ask_milliseconds);
    const Position stored = writer_.position();
    const std::string name = "partition " + std::to_string(partition_) + " of " + config_.topic;
    if (!stored.session.empty()) {
      const auto next = static_cast<std::int64_t>(stored.record);
      if (next > ends.high)
        throw std::runtime_error(
            name + " ends at " + std::to_string(ends.high) + ", but " + std::to_string(next) +
            " events of it are in: the topic was made anew; give its rows another --connection");
      if (next < ends.low)
        log::error(name + ": " + grouped(static_cast<std::uint64_t>(ends.low - next)) +
                   " events were deleted there before they were read");
      log::info(name + ": going on at offset " + std::to_string(std::max(next, ends.low)));
      return std::max(next, ends.low);
    }
    std::int64_t first = config_.start == "latest" ? ends.high : ends.low;
    if (config_.start != "latest" && config_.start != "earliest") {
      Partitions list(rd_kafka_topic_partition_list_new(1));
      rd_kafka_topic_partition_list_add(list.get(), config_.topic.c_str(), partition_)->offset =
          parse_time(config_.start)->time_since_epoch().count() / 1000;
      const auto code = rd_kafka_offsets_for_times(kafka_, list.get(), ask_milliseconds);
      if (code != RD_KAFKA_RESP_ERR_NO_ERROR) throw KafkaError(name + ": " + rd_kafka_err2str(code));
      first = list->elems[0].offset >= 0 ? list->elems[0].offset : ends.high;
    }
    log::info(name + ": no position yet, beginning at offset " + std::to_string(first) + " (" +
              config_.start + ")");
    writer_.begin_at(static_cast<std::uint64_t>(first));
    return first;
  }

  const Config& config_;
  rd_kafka_t* kafka_;
  int partition_;
  const Stats& stats_;
  Ring ring_;
  std::atomic<bool> abandon_{false};
  Writer writer_;
  std::vector<Tick> kept_;
  std::atomic<std::int64_t> begin_{0};
  std::atomic<bool> ready_{false};
  std::atomic<bool> ended_{false};
  std::string failure_;
  std::thread thread_;
};

class Consumer {
 public:
  explicit Consumer(const Config& config)
      : config_(config),
        rows_(row_options(config)),
        rejects_(config.database, "kafka/" + config.topic, stats_) {
    for (const auto& symbol : config.symbols) wanted_.insert(symbol);
    rd_kafka_conf_t* conf = rd_kafka_conf_new();
    rd_kafka_conf_set_opaque(conf, this);
    rd_kafka_conf_set_rebalance_cb(
        conf, [](rd_kafka_t*, rd_kafka_resp_err_t code, rd_kafka_topic_partition_list_t* partitions,
                 void* self) { static_cast<Consumer*>(self)->rebalance(code, *partitions); });
    rd_kafka_conf_set_error_cb(conf, [](rd_kafka_t*, int code, const char* why, void* self) {
      static_cast<Consumer*>(self)->trouble(static_cast<rd_kafka_resp_err_t>(code), why);
    });
    rd_kafka_conf_set_log_cb(conf, [](const rd_kafka_t*, int, const char*, const char*) {});
    kafka_ = make_consumer(conf, config_);
    if (!config.listen.empty())
      status_.emplace(
          config.listen, stats_,
          [this] {
            const std::lock_guard hold(guard_);
            std::size_t waiting = 0;
            for (const auto& [partition, lane] : lanes_) waiting += lane->waiting();
            return Gauges{waiting, 0, 0};
          },
          "kafka/" + config_.topic, config_.database);
  }

  int run() {
    bool stopped = !subscribe();
    while (failure_.empty() && !stopped) {
      const int signal = wait_for_signal(0);
      if (signal == SIGTERM || signal == SIGINT) {
        log::info("stopping: committing what was received");
        stopped = true;
        continue;
      }
      Message message(rd_kafka_consumer_poll(kafka_.get(), poll_milliseconds));
      if (message) take(*message);
      if (lanes_moving_ || Clock::now() >= look_at_) look();
    }
    const auto code = rd_kafka_consumer_close(kafka_.get());
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR) log::warn(rd_kafka_err2str(code));
    drop_lanes();
    status_.reset();
    if (!failure_.empty()) log::error(failure_);
    log::info("stopped: " + grouped(stats_.rows) + " rows committed in " + grouped(stats_.batches) +
              " batches, " + grouped(stats_.messages) + " messages received, " + grouped(stats_.malformed) +
              " malformed, " + grouped(stats_.refused) + " refused");
    return failure_.empty() ? exit_ok : exit_failed;
  }

 private:
  // Waits for the brokers as long as it takes, since they may be on their way up like everything else; false:
  // told to stop meanwhile. Throws when they answer and there is no such topic.
  bool subscribe() {
    while (count_ == 0) {
      try {
        count_ = partitions_of(kafka_.get(), config_, ask_at_start_milliseconds);
      } catch (const NoBroker& error) {
        trouble(RD_KAFKA_RESP_ERR__TRANSPORT, error.what());
        const int signal = wait_for_signal(200);
        if (signal == SIGTERM || signal == SIGINT) return false;
      }
    }
    log::info("topic " + config_.topic + " of " + std::to_string(count_) + " partitions into table " +
              config_.table);
    Partitions topics(rd_kafka_topic_partition_list_new(1));
    rd_kafka_topic_partition_list_add(topics.get(), config_.topic.c_str(), RD_KAFKA_PARTITION_UA);
    const auto code = rd_kafka_subscribe(kafka_.get(), topics.get());
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR) throw KafkaError(rd_kafka_err2str(code));
    return true;
  }

  void take(const rd_kafka_message_t& message) {
    if (message.err != RD_KAFKA_RESP_ERR_NO_ERROR) {
      if (message.err != RD_KAFKA_RESP_ERR__PARTITION_EOF)
        log::warn(std::string("Kafka: ") + rd_kafka_message_errstr(&message));
      return;
    }
    const auto found = lanes_.find(message.partition);
    if (found == lanes_.end() || !found->second->running) return;  // read again from where it begins
    Lane& lane = *found->second;
    if (message.offset < lane.next) return;
    lane.next = message.offset + 1;
    stats_.connected = true;
    ++stats_.messages;
    const std::string_view text(static_cast<const char*>(message.payload), message.len);
    ticks_.clear();
    const Decoded decoded = rows_.decode(text, now(), ticks_);
    if (decoded.verdict == Verdict::malformed) return rejects_.add(decoded.reason, text);
    std::erase_if(ticks_, [&](Tick& tick) {
      const std::string symbol(tick.symbol.view());
      if (!wanted_.empty() && !wanted_.contains(symbol)) return true;
      tick.symbol.assign(table_name(config_, symbol));
      tick.record = static_cast<std::uint64_t>(message.offset) + 1;
      return false;
    });
    if (ticks_.empty()) {
      ++stats_.ignored;
      return;
    }
    stats_.ticks += ticks_.size();
    lane.offered = lane.next;
    if (!lane.offer(ticks_)) pause(lane, true);
  }

  void pause(Lane& lane, bool on) {
    Partitions list(rd_kafka_topic_partition_list_new(1));
    rd_kafka_topic_partition_list_add(list.get(), config_.topic.c_str(), lane.partition());
    (on ? rd_kafka_pause_partitions : rd_kafka_resume_partitions)(kafka_.get(), list.get());
    lane.paused = on;
    lanes_moving_ = lanes_moving_ || on;
  }

  // Lanes that know where to begin, or have room again, are read; counts what is unread.
  void look() {
    const bool full_look = Clock::now() >= look_at_;
    if (full_look) look_at_ = Clock::now() + look_every;
    lanes_moving_ = false;
    bool begun = false;
    std::uint64_t unread = 0;
    for (auto& [partition, lane] : lanes_) {
      if (lane->ended()) {
        if (!lane->failure().empty()) failure_ = lane->failure();
        continue;
      }
      if (!lane->running) {
        begun = begun || lane->begin();
        lanes_moving_ = true;
      } else if (lane->paused) {
        if (lane->retry()) pause(*lane, false);
        lanes_moving_ = lanes_moving_ || lane->paused;
      }
      if (!full_look || !lane->begin()) continue;
      Ends ends;
      if (lane->paused) {
        try {
          ends = ends_of(kafka_.get(), config_.topic, partition, poll_milliseconds);
        } catch (const KafkaError&) {
          continue;
        }
      } else {
        rd_kafka_get_watermark_offsets(kafka_.get(), config_.topic.c_str(), partition, &ends.low, &ends.high);
      }
      unread += static_cast<std::uint64_t>(std::max<std::int64_t>(0, ends.high - lane->done()));
    }
    if (begun) assign();
    if (!full_look) return;
    stats_.unread = unread;
    if (!stats_.connected && !lanes_.empty()) reach();
    if (Clock::now() - logged_at_ < log_interval) return;
    logged_at_ = Clock::now();
    log::info("rows " + grouped(stats_.rows) + "  unread " + grouped(unread) +
              (stats_.ignored == 0 ? "" : "  of other symbols " + grouped(stats_.ignored)) + "  partitions " +
              std::to_string(lanes_.size()) + (stats_.connected ? "" : "  NOT CONNECTED"));
  }

  void reach() {
    const rd_kafka_metadata_t* data = nullptr;
    if (rd_kafka_metadata(kafka_.get(), 0, nullptr, &data, poll_milliseconds) != RD_KAFKA_RESP_ERR_NO_ERROR)
      return;
    rd_kafka_metadata_destroy(data);
    log::info("the brokers answer");
    stats_.connected = true;
  }

  // Has the consumer read the lanes that know where to begin. Offsets are always given as numbers: a logical
  // one is looked up by librdkafka in its own time, and could overtake what is read meanwhile.
  void assign() {
    Partitions list(rd_kafka_topic_partition_list_new(static_cast<int>(lanes_.size())));
    for (auto& [partition, lane] : lanes_) {
      if (!lane->running && lane->begin()) {
        lane->next = *lane->begin();
        lane->running = true;
      }
      if (lane->running)
        rd_kafka_topic_partition_list_add(list.get(), config_.topic.c_str(), partition)->offset = lane->next;
    }
    rd_kafka_assign(kafka_.get(), list.get());
    for (auto& [partition, lane] : lanes_)
      if (lane->paused) pause(*lane, true);
  }

  // Called by the poll: partitions come with a writer each, which first waits for the former owner's to end.
  void rebalance(rd_kafka_resp_err_t code, rd_kafka_topic_partition_list_t& partitions) {
    if (code != RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
      log::info("partitions are taken away: " + names(partitions));
      drop_lanes();
      rd_kafka_assign(kafka_.get(), nullptr);
      return;
    }
    log::info("partitions are given: " + names(partitions));
    Partitions none(rd_kafka_topic_partition_list_new(0));
    rd_kafka_assign(kafka_.get(), none.get());
    const std::lock_guard hold(guard_);
    const auto ring = std::max<std::size_t>(config_.ring / static_cast<std::size_t>(count_), 1000);
    for (int i = 0; i < partitions.cnt; ++i) {
      const int partition = partitions.elems[i].partition;
      lanes_[partition] = std::make_unique<Lane>(config_, kafka_.get(), partition, ring, stats_);
    }
    lanes_moving_ = true;
    stats_.connected = true;
  }

  void drop_lanes() {
    const std::lock_guard hold(guard_);
    for (auto& [partition, lane] : lanes_) lane->close();
    lanes_.clear();
    stats_.connected = false;
  }

  void trouble(rd_kafka_resp_err_t code, const char* why) {
    if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
      if (stats_.connected) ++stats_.feed_reconnects;
      stats_.connected = false;
    }
    if (Clock::now() - told_at_ < log_interval) return;
    told_at_ = Clock::now();
    log::warn(std::string("Kafka: ") + why);
  }

  static std::string names(const rd_kafka_topic_partition_list_t& partitions) {
    std::string text;
    for (int i = 0; i < partitions.cnt; ++i)
      text += (i > 0 ? ", " : "") + std::to_string(partitions.elems[i].partition);
    return text.empty() ? "none" : text;
  }

  const Config config_;
  Stats stats_;
  JsonRows rows_;
  Rejects rejects_;
  std::set<std::string> wanted_;
  Handle kafka_;
  int count_ = 0;     // partitions
  std::mutex guard_;  // of lanes_, which this thread alone changes
  std::map<int, std::unique_ptr<Lane>> lanes_;
  std::optional<StatusServer> status_;
  bool lanes_moving_ = false;
  Clock::time_point look_at_{};
  Clock::time_point logged_at_ = Clock::now();
  Clock::time_point told_at_{};
  std::vector<Tick> ticks_;
  std::string failure_;
};

}  // namespace

int run_kafka(const Config& config) try {
  return Consumer(config).run();
} catch (const std::exception& error) {
  log::error(error.what());
  return exit_failed;
}

std::vector<KafkaFinding> check_kafka(const Config& config,
                                      const std::function<void(const std::string&)>& good) {
  std::vector<KafkaFinding> findings;
  Handle kafka;
  int count = 0;
  try {
    rd_kafka_conf_t* conf = rd_kafka_conf_new();
    rd_kafka_conf_set_log_cb(conf, [](const rd_kafka_t*, int, const char*, const char*) {});
    kafka = make_consumer(conf, config);
    count = partitions_of(kafka.get(), config, ask_milliseconds);
  } catch (const KafkaError& error) {
    const bool topic = std::strstr(error.what(), "no topic") != nullptr;
    findings.push_back({topic ? "kafka.topic" : "kafka.brokers", error.what(),
                        topic ? "kafka.topic = the topic's name, or --topic"
                              : "are the brokers running, and is kafka.brokers host:port?"});
    return findings;
  }
  good("topic " + config.topic + " of " + std::to_string(count) + " partitions at " + config.brokers);
  std::uint64_t events = 0;
  int sample = -1;
  Ends ends;
  try {
    for (int partition = 0; partition < count; ++partition) {
      const Ends these = ends_of(kafka.get(), config.topic, partition, ask_milliseconds);
      events += static_cast<std::uint64_t>(these.high - these.low);
      if (these.high > these.low) sample = partition, ends = these;
    }
  } catch (const KafkaError& error) {
    return findings.push_back({"kafka.brokers", error.what(), "see the message"}), findings;
  }
  if (sample < 0) {
    good("topic " + config.topic + " is empty");
    return findings;
  }
  Partitions list(rd_kafka_topic_partition_list_new(1));
  rd_kafka_topic_partition_list_add(list.get(), config.topic.c_str(), sample)->offset = ends.high - 1;
  rd_kafka_assign(kafka.get(), list.get());
  const auto until = Clock::now() + std::chrono::milliseconds(ask_milliseconds);
  while (Clock::now() < until) {
    Message message(rd_kafka_consumer_poll(kafka.get(), poll_milliseconds));
    if (!message || message->err != RD_KAFKA_RESP_ERR_NO_ERROR) continue;
    const std::string_view text(static_cast<const char*>(message->payload), message->len);
    std::vector<Tick> ticks;
    const Decoded decoded = JsonRows(row_options(config)).decode(text, now(), ticks);
    if (decoded.verdict == Verdict::tick)
      good("its newest event is understood: " + std::string(ticks[0].symbol.view()) + " at " +
           format_time(ticks[0].ts) + "; " + grouped(events) + " events");
    else
      findings.push_back(
          {"rows.columns",
           std::string("the newest event cannot be read: ") + decoded.reason + ": " +
               std::string(text.substr(0, 200)),
           "rows.columns = \"symbol=..,ts=..,price=..\", or binance-prices, clean_trades, yahoo"});
    break;
  }
  rd_kafka_assign(kafka.get(), nullptr);
  rd_kafka_consumer_close(kafka.get());
  return findings;
}

#else

int run_kafka(const Config&) {
  log::error("this tick-ingest was built without librdkafka");
  return exit_failed;
}

std::vector<KafkaFinding> check_kafka(const Config&, const std::function<void(const std::string&)>&) {
  return {{"feed.name", "this tick-ingest was built without librdkafka", "build it where librdkafka-dev is"}};
}

#endif

}  // namespace tick::ingest
