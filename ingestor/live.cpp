// Sessions and connections; see live.hpp.
#include "live.hpp"

#include <zlib.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <unordered_map>

#include "chain.hpp"
#include "clock.hpp"
#include "gaps.hpp"
#include "log.hpp"
#include "number.hpp"
#include "recovery.hpp"
#include "rejects.hpp"
#include "repair.hpp"
#include "run.hpp"
#include "socket.hpp"
#include "status.hpp"

namespace tick::ingest {

namespace {

using Clock = std::chrono::steady_clock;

constexpr double longest_backoff_seconds = 32;
constexpr auto look_every = std::chrono::milliseconds(50);  // while connections come and go, else
constexpr auto calm_look_every = std::chrono::seconds(1);
constexpr auto settle =
    std::chrono::seconds(2);  // an overlapping connection without data counts as good then
constexpr auto reorder_patience = std::chrono::milliseconds(300);
// Binance allows 300 attempts in 5 minutes from one address, others more.
constexpr double attempts_burst = 100;
constexpr double attempts_per_second = 150.0 / 300;

Timestamp floored(std::chrono::system_clock::time_point time) {
  return std::chrono::floor<std::chrono::microseconds>(time);
}

Timestamp now() {
  return floored(std::chrono::system_clock::now());
}

struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

// The symbols in force: the exchange's name -> the table's. Replaced as a whole.
struct Symbols {
  std::unordered_map<std::string, std::string, TextHash, std::equal_to<>> names;
  std::unordered_map<std::string, std::string, TextHash, std::equal_to<>> retired;  // ticks may still come
  bool any = false;  // the address names the streams: every symbol is taken
};

std::shared_ptr<const Symbols> make_symbols(const Config& config, const Symbols* before) {
  auto symbols = std::make_shared<Symbols>();
  for (const auto& symbol : config.symbols) symbols->names.emplace(symbol, table_name(config, symbol));
  symbols->any = config.symbols.empty();
  if (before != nullptr) {
    symbols->retired = before->retired;
    for (const auto& [symbol, name] : before->names) symbols->retired.emplace(symbol, name);
    for (const auto& [symbol, name] : symbols->names) symbols->retired.erase(symbol);
  }
  return symbols;
}

// What all sessions of a feed share.
struct Shared {
  Ring& ring;
  Stats& stats;
  Rejects& rejects;
  std::chrono::microseconds max_stream_silence;
  const Calendar& session;
  std::chrono::microseconds max_data_silence;  // 0: none, or the socket watches it
  std::mutex guard;
  std::shared_ptr<const Symbols> symbols;
  std::atomic<std::uint64_t> version{1};
  std::function<void()> changed = {};  // a connection opens, ends or is about to
  Recovery* recovery = nullptr;        // where ids are no sequence

  std::shared_ptr<const Symbols> current() {
    const std::lock_guard hold(guard);
    return symbols;
  }
};

// One connection's messages on their way into the ring.
class Session final : public FrameHandler {
 public:
  Session(std::unique_ptr<Feed> feed, Shared& shared) : feed_(std::move(feed)), shared_(shared) { refresh(); }

  bool got_data() const { return got_data_; }
  bool is_open() const { return open_; }
  bool leaving() const { return leaving_; }  // the exchange said so

  void opened() override {
    if (shared_.recovery != nullptr) shared_.recovery->begins();
    open_ = true;
    const auto time = Clock::now();
    for (auto& [symbol, last] : last_data_) last = time;
    last_message_ = time;
    log::info("connected");
    shared_.changed();
  }

  bool frame(std::string_view text, std::chrono::system_clock::time_point received) override {
    if (version_ != shared_.version) refresh();
    ++shared_.stats.messages;
    heard();
    const std::size_t before = pending_.size();
    const Decoded decoded = feed_->decode(text, floored(received), pending_);
    switch (decoded.verdict) {
      case Verdict::tick:
        if (decoded.bad > 0) reject(decoded.reason, text);
        if (!admit(before)) shared_.rejects.add("a symbol that was not asked for", text);
        return room();
      case Verdict::malformed:
        reject(decoded.reason, text);
        break;
      case Verdict::refused:
        log::error("the exchange refused a request: " + std::string(text.substr(0, 300)));
        break;
      case Verdict::shutdown:
        log::info("the exchange announced that it will close this connection");
        leaving_ = true;
        shared_.changed();
        break;
      case Verdict::ignored:
      case Verdict::reply:
      case Verdict::unknown:
        ++shared_.stats.ignored;
        break;
    }
    return true;
  }

  bool room() override {
    heard();  // while reading pauses nothing can come
    const std::uint64_t dropped = shared_.recovery != nullptr ? shared_.ring.dropped() : 0;
    const std::size_t taken = shared_.ring.push(pending_);
    if (shared_.recovery != nullptr && shared_.ring.dropped() != dropped) shared_.recovery->dropped();
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(taken));
    const bool room = pending_.empty();
    if (!room && !full_)
      log::warn("the ring is full: the socket is not read until the database takes ticks again");
    full_ = !room;
    return room;
  }

  // Outside of sessions silence means nothing, and it does not count towards what comes after.
  std::string overdue() override {
    const auto time = Clock::now();
    if (shared_.max_stream_silence.count() > 0 && version_ != shared_.version) refresh();
    if (!shared_.session.open(now())) {
      last_message_ = time;
      for (auto& [symbol, last] : last_data_) last = time;
      return "";
    }
    if (shared_.max_data_silence.count() > 0 && time - last_message_ > shared_.max_data_silence)
      return "no message within the session for longer than feed.max_data_silence";
    for (const auto& [symbol, last] : last_data_)
      if (time - last > shared_.max_stream_silence)
        return "no trade of " + symbol + " for longer than feed.max_stream_silence";
    return "";
  }

  // After the connection ended: what was received must still go in.
  void flush() {
    shared_.ring.push_wait(pending_);
    pending_.clear();
  }

 private:
  void reject(const char* reason, std::string_view text) {
    shared_.rejects.add(reason, text);
    if (shared_.recovery != nullptr) shared_.recovery->unreadable();
  }

  void refresh() {
    version_ = shared_.version;
    symbols_ = shared_.current();
    std::unordered_map<std::string, Clock::time_point, TextHash, std::equal_to<>> fresh;
    if (shared_.max_stream_silence.count() > 0)
      for (const auto& [symbol, name] : symbols_->names) {
        const auto known = last_data_.find(symbol);
        fresh.emplace(symbol, known == last_data_.end() ? Clock::now() : known->second);
      }
    last_data_.swap(fresh);
  }

  void heard() {
    if (shared_.max_data_silence.count() > 0) last_message_ = coarse_now();
  }

  // Gives the new ticks their name in the table; false when there was a symbol that nobody asked for.
  bool admit(std::size_t from) {
    bool known = true;
    std::size_t kept = from;
    for (std::size_t i = from; i < pending_.size(); ++i) {
      Tick& tick = pending_[i];
      if (!symbols_->any) {
        const auto name = symbols_->names.find(tick.symbol.view());
        if (name == symbols_->names.end()) {
          known = known && symbols_->retired.contains(tick.symbol.view());
          continue;
        }
        if (shared_.max_stream_silence.count() > 0) last_data_[name->first] = coarse_now();
        if (name->second != name->first) tick.symbol.assign(name->second);
      }
      if (shared_.recovery != nullptr) tick.whole = shared_.recovery->whole(tick);
      pending_[kept++] = tick;
    }
    pending_.resize(kept);
    if (kept > from) {
      got_data_ = true;
      shared_.stats.ticks += kept - from;
      shared_.stats.data_at_us =
          std::chrono::duration_cast<std::chrono::microseconds>(coarse_now().time_since_epoch()).count();
    }
    return known;
  }

  std::unique_ptr<Feed> feed_;
  Shared& shared_;
  std::shared_ptr<const Symbols> symbols_;
  std::uint64_t version_ = 0;
  std::unordered_map<std::string, Clock::time_point, TextHash, std::equal_to<>> last_data_;
  Clock::time_point last_message_{};
  std::vector<Tick> pending_;
  std::atomic<bool> got_data_{false};
  std::atomic<bool> open_{false};
  std::atomic<bool> leaving_{false};
  bool full_ = false;
};

// One connection on a thread of its own, from its construction to its end.
class Connection {
 public:
  Connection(const Url& url, const ClientOptions& options, std::unique_ptr<Feed> feed, Shared& shared)
      : session_(std::move(feed), shared), begun_(Clock::now()), thread_([this, url, options, &shared] {
          try {
            why_ = client_.run(url, options, session_);
          } catch (const std::exception& error) {
            why_ = error.what();
          }
          session_.flush();
          done_ = true;
          shared.changed();
        }) {}
  ~Connection() {
    client_.stop();
    thread_.join();
  }

  Session& session() { return session_; }
  Client& client() { return client_; }
  bool done() const { return done_; }
  const std::string& why() const { return why_; }  // once done
  Clock::duration age() const { return Clock::now() - begun_; }
  bool good() const { return session_.is_open() && (session_.got_data() || age() > settle); }

 private:
  Client client_;
  Session session_;
  Clock::time_point begun_;
  std::string why_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

// Keeps one good connection up: reconnects with backoff, and replaces it before a planned end.
class Connections {
 public:
  Connections(const Config& config, Shared& shared, std::function<void()> connected)
      : config_(config), shared_(shared), venue_(*find_venue(config.feed)), connected_(std::move(connected)) {
    shared_.changed = [this] {
      const std::lock_guard hold(signal_);
      signalled_ = true;
      changed_.notify_all();
    };
  }

  void run() {
    for (;;) {
      {
        std::unique_lock hold(signal_);
        changed_.wait_for(hold, calm_ ? calm_look_every : Clock::duration(look_every),
                          [&] { return stop_ || signalled_; });
        if (stop_) break;
        signalled_ = false;
      }
      const std::lock_guard hold(guard_);
      turn();
      if (idle()) {
        log::info("no trade for feed.stop_when_idle: ending");
        break;
      }
      calm_ = current_ && current_->session().is_open() && !next_ && !planned_end() &&
              (config_.max_age.count() == 0 || config_.max_age > 10 * calm_look_every);
    }
    current_.reset();
    next_.reset();
  }

  void stop() {
    const std::lock_guard hold(signal_);
    stop_ = true;
    changed_.notify_all();
  }

  // Symbols come and go on the living connections.
  void change(const Config& config, const std::vector<std::string>& added,
              const std::vector<std::string>& gone) {
    const std::lock_guard hold(guard_);
    config_ = config;
    const auto feed = venue_.make(config.stream);
    for (const bool add : {true, false})
      for (const auto& text : feed->subscribe(add ? added : gone, config.stream, add))
        for (auto* connection : {current_.get(), next_.get()})
          if (connection != nullptr) connection->client().send(text);
  }

 private:
  void turn() {
    const auto time = Clock::now();
    if (next_ && next_->done()) {
      log::warn("the replacing connection failed: " + next_->why());
      next_.reset();
      retry_at_ = time + backoff();
    }
    if (current_ && current_->done()) {
      if (current_->session().got_data()) failures_ = 0;
      const std::string why = current_->why();
      current_.reset();
      ++shared_.stats.feed_reconnects;
      if (next_) {
        log::info("the old connection ended (" + why + "), the new one goes on");
      } else {
        const auto wait = backoff();
        retry_at_ = time + wait;
        char text[32];
        std::snprintf(text, sizeof text, "%.1f", std::chrono::duration<double>(wait).count());
        log::warn("disconnected: " + why + "; next try in " + text + " s");
      }
    }
    if (next_ && (!current_ || next_->good())) {
      if (current_) log::info("the new connection is good, the old one is closed");
      current_ = std::move(next_);
      failures_ = 0;
    }
    if (!current_ && !next_ && time >= retry_at_ && allowed()) current_ = connect();
    if (current_ && !next_ && time >= retry_at_ && planned_end() && allowed()) {
      log::info("opening a new connection before the old one is closed");
      next_ = connect();
    }
    const bool open = (current_ && current_->session().is_open()) || (next_ && next_->session().is_open());
    if (open && !shared_.stats.connected) connected_();
    shared_.stats.connected = open;
  }

  bool planned_end() const {
    return current_->session().leaving() ||
           (config_.max_age.count() > 0 && current_->age() > config_.max_age);
  }

  std::unique_ptr<Connection> connect() {
    const auto feed = venue_.make(config_.stream);
    const auto url = parse_url(feed->url(config_.url, config_.symbols, config_.stream));
    if (!url) throw std::runtime_error("impossible address " + config_.url);
    log::info("connecting to " + config_.url);
    ClientOptions options = client_options(config_, *feed);
    if (shared_.max_data_silence.count() > 0) options.max_data_silence = options.max_data_silence.zero();
    return std::make_unique<Connection>(*url, options, venue_.make(config_.stream), shared_);
  }

  Clock::duration backoff() {
    const double base =
        std::min(longest_backoff_seconds, 0.2 * static_cast<double>(1 << std::min(failures_++, 10)));
    const double wait = base * std::uniform_real_distribution<>(0.5, 1.0)(random_);
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(wait));
  }

  bool allowed() {
    const auto time = Clock::now();
    attempts_ =
        std::min(attempts_burst,
                 attempts_ + attempts_per_second * std::chrono::duration<double>(time - filled_at_).count());
    filled_at_ = time;
    const auto url = parse_url(config_.url);
    if (url && !own_host(venue_, url->host)) return true;  // a server of one's own
    if (attempts_ < 1) return false;
    attempts_ -= 1;
    return true;
  }

  bool idle() const {
    const auto last =
        std::max(begun_, Clock::time_point(std::chrono::microseconds(shared_.stats.data_at_us)));
    return config_.stop_when_idle.count() > 0 && Clock::now() - last > config_.stop_when_idle;
  }

  Config config_;
  Shared& shared_;
  const Venue& venue_;
  Clock::time_point begun_ = Clock::now();
  std::function<void()> connected_;
  std::mutex guard_;   // of the connections and of config_
  std::mutex signal_;  // of the next three; connections take it on their own threads
  std::condition_variable changed_;
  bool stop_ = false;
  bool signalled_ = false;
  bool calm_ = false;
  std::unique_ptr<Connection> current_;
  std::unique_ptr<Connection> next_;
  Clock::time_point retry_at_{};
  int failures_ = 0;
  double attempts_ = attempts_burst;
  Clock::time_point filled_at_ = Clock::now();
  std::minstd_rand random_{std::random_device{}()};
};

std::vector<std::string> without(const std::vector<std::string>& all, const std::vector<std::string>& some) {
  std::vector<std::string> rest;
  std::copy_if(all.begin(), all.end(), std::back_inserter(rest), [&](const std::string& one) {
    return std::find(some.begin(), some.end(), one) == some.end();
  });
  return rest;
}

}  // namespace

ClientOptions client_options(const Config& config) {
  ClientOptions options;
  options.tls = {config.tls_verify, config.tls_ca};
  const auto milliseconds = [](std::chrono::microseconds time) {
    return std::chrono::ceil<std::chrono::milliseconds>(time);
  };
  options.ping_every = milliseconds(config.ping);
  options.max_silence = milliseconds(config.max_silence);
  options.max_data_silence = milliseconds(config.max_data_silence);
  options.max_frame = config.max_frame;
  options.look_every = std::chrono::seconds(1);
  for (const auto limit : {config.max_silence, config.max_data_silence, config.max_stream_silence})
    if (limit.count() > 0)
      options.look_every =
          std::clamp(milliseconds(limit) / 10, std::chrono::milliseconds(20), options.look_every);
  return options;
}

ClientOptions client_options(const Config& config, const Feed& feed) {
  ClientOptions options = client_options(config);
  options.greetings = feed.greetings(config.url, config.symbols, config.stream);
  if (const auto heartbeat = feed.heartbeat(config.symbols)) {
    options.heartbeat = heartbeat->text;
    options.heartbeat_every =
        config.ping.count() > 0 ? std::min(heartbeat->every, options.ping_every) : heartbeat->every;
  }
  return options;
}

int run_live(const Config& config, const std::function<std::optional<Config>()>& reread) try {
  WriterOptions options = writer_options(config);
  const Venue& venue = *find_venue(config.feed);
  options.feed = venue.exchange;
  options.by_index = !venue.sequence;
  options.marks = config.repair && !venue.sequence && venue.make(config.stream)->history_by_time();
  options.in_seconds = venue.make(config.stream)->history_in_seconds();
  options.connection = config.connection.empty() ? default_connection(config) : config.connection;
  Chain chain(config, options);
  Stats& stats = chain.stats();
  int code = exit_failed;
  {
    Rejects rejects(config.database, options.feed + "/" + options.connection, stats);
    const auto watched = config.session.always() ? std::chrono::microseconds(0) : config.max_data_silence;
    Shared shared{chain.ring(),
                  stats,
                  rejects,
                  config.max_stream_silence,
                  config.session,
                  watched,
                  {},
                  make_symbols(config, nullptr),
                  {1}};

    RepairOptions repair_options;
    repair_options.rest = {config.repair_url, {config.tls_verify, config.tls_ca}, config.repair_interval};
    repair_options.patience = reorder_patience;
    const auto push = [&](std::span<const Tick> ticks) { return chain.ring().push_wait(ticks); };
    const auto symbols = [&] {
      std::map<std::string, std::string> by_name;
      for (const auto& [symbol, name] : shared.current()->names) by_name[name] = symbol;
      return by_name;
    };
    Gaps gaps(config.database, config.table, config.exchange);
    Repair repair(
        repair_options, venue.make(config.stream), stats, [&] { return chain.position(); },
        [&](const Position& position) -> std::optional<Holes> {
          auto answer = gaps.read();
          if (answer.what == Gaps::Answer::unknown) return std::nullopt;
          return answer.what == Gaps::Answer::no_ids ? position.holes : std::move(answer.by_symbol);
        },
        [&](const std::string& name, const Hole& hole, const std::string& reason) {
          gaps.explain(name, hole, reason);
        },
        push, symbols);
    Recovery recovery(
        repair_options.rest, venue.make(config.stream), stats,
        [&] { return chain.open() ? std::optional(chain.position()) : std::nullopt; }, push, symbols,
        [&] { return chain.ring().dropped(); });
    if (options.marks) shared.recovery = &recovery;
    std::optional<StatusServer> status;
    if (!config.listen.empty())
      status.emplace(
          config.listen, stats,
          [&] {
            return Gauges{chain.ring().size(), chain.ring().spooled(), chain.ring().dropped()};
          },
          options.feed + "/" + options.connection, config.database);
    Connections connections(config, shared, [&] { repair.connected(); });
    Config in_force = config;

    const auto produce = [&] {
      log::info("feed " + options.feed + "/" + options.connection + " into table " + config.table + ": " +
                std::to_string(config.symbols.size()) + " symbols");
      std::thread repairing;
      if (config.repair && venue.sequence) repairing = std::thread([&] { repair.run(); });
      if (options.marks) repairing = std::thread([&] { recovery.run(); });
      connections.run();
      repair.stop();
      recovery.stop();
      if (repairing.joinable()) repairing.join();
    };
    const auto interrupt = [&] {
      connections.stop();
      repair.stop();
      recovery.stop();
    };
    const auto reload = [&] {
      const auto fresh = reread ? reread() : std::nullopt;
      if (!fresh) return log::error("the configuration was not changed");
      const auto added = without(fresh->symbols, in_force.symbols);
      const auto gone = without(in_force.symbols, fresh->symbols);
      in_force.symbols = fresh->symbols;
      in_force.aliases = fresh->aliases;
      {
        const std::lock_guard hold(shared.guard);
        shared.symbols = make_symbols(in_force, shared.symbols.get());
        ++shared.version;
      }
      connections.change(in_force, added, gone);
      log::info("configuration read again: " + std::to_string(added.size()) + " symbols added, " +
                std::to_string(gone.size()) + " removed");
    };
    code = chain.supervise(produce, interrupt, reload);
  }
  log::info("stopped: " + grouped(stats.rows) + " rows committed in " + grouped(stats.batches) +
            " batches, " + grouped(stats.messages) + " messages received, " + grouped(stats.duplicates) +
            " duplicates, " + grouped(stats.malformed) + " malformed, " + grouped(stats.refused) +
            " refused, " + grouped(stats.repaired) + " repaired");
  return code;
} catch (const std::exception& error) {
  log::error(error.what());
  return exit_failed;
}

// ---- recording

namespace {

class Recorder final : public FrameHandler {
 public:
  Recorder(gzFile file, std::uint64_t limit, std::function<void()> full)
      : file_(file), limit_(limit), full_(std::move(full)) {}
  void opened() override { log::info("connected"); }
  bool room() override { return true; }
  bool frame(std::string_view text, std::chrono::system_clock::time_point received) override {
    if (limit_ > 0 && count_ >= limit_) return true;
    line_ = std::to_string(
        std::chrono::duration_cast<std::chrono::nanoseconds>(received.time_since_epoch()).count());
    line_ += ' ';
    for (const char c : text) line_ += c == '\n' || c == '\r' ? ' ' : c;
    line_ += '\n';
    if (gzwrite(file_, line_.data(), static_cast<unsigned>(line_.size())) <= 0) failed_ = true;
    if (failed_ || ++count_ == limit_) full_();
    return true;
  }
  std::uint64_t count() const { return count_; }
  bool failed() const { return failed_; }

 private:
  gzFile file_;
  std::uint64_t limit_;
  std::function<void()> full_;
  std::uint64_t count_ = 0;
  bool failed_ = false;
  std::string line_;
};

}  // namespace

int run_record(const Config& config, const std::string& file, std::uint64_t limit) {
  const Venue& venue = *find_venue(config.feed);
  const auto feed = venue.make(config.stream);
  const auto url = parse_url(feed->url(config.url, config.symbols, config.stream));
  gzFile out = gzopen(file.c_str(), file.ends_with(".gz") ? "wb" : "wbT");
  if (out == nullptr || !url) {
    log::error(url ? file + ": cannot be written" : "impossible address " + config.url);
    return exit_failed;
  }
  Client client;
  Recorder recorder(out, limit, [&] { client.stop(); });
  const ClientOptions options = client_options(config, *feed);
  std::string why;
  std::atomic<bool> done{false};
  std::thread thread([&] {
    why = client.run(*url, options, recorder);
    done = true;
  });
  while (!done)
    if (const int signal = wait_for_signal(50); signal != 0) client.stop();
  thread.join();
  const bool written = gzclose(out) == Z_OK && !recorder.failed();
  log::info(file + ": " + grouped(recorder.count()) + " messages");
  if (!why.empty()) log::error("disconnected: " + why);
  if (!written) log::error(file + ": cannot be written");
  return why.empty() && written ? exit_ok : exit_failed;
}

}  // namespace tick::ingest
