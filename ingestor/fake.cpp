// The fake exchange; see fake.hpp. Everything runs on the server's thread; turn() sends what is due by the
// clock.
#include "fake.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <thread>

#include "config.hpp"
#include "log.hpp"
#include "number.hpp"
#include "replay.hpp"
#include "run.hpp"
#include "socket.hpp"
#include "subscriptions.hpp"
#include "wire.hpp"

namespace tick::ingest {

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto turn_interval = std::chrono::microseconds(1000);
constexpr std::size_t most_ticks_per_turn = 20'000;
constexpr std::size_t full_speed_backlog = 1u << 20;
constexpr std::size_t giant_document = 8u << 20;
constexpr auto slow_document = std::chrono::milliseconds(200);

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

// SplitMix64: the same walk for the same seed everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::uint64_t below(std::uint64_t n) { return next() % n; }

 private:
  std::uint64_t state_;
};

// units of 10^-decimals with eight digits after the point, as Binance writes them.
void append_decimal(std::string& out, std::int64_t units, int decimals) {
  std::int64_t scale = 1;
  for (int i = 0; i < decimals; ++i) scale *= 10;
  append_number(out, units / scale);
  out += '.';
  std::int64_t rest = units % scale;
  for (int i = 0; i < 8; ++i) {
    scale /= 10;
    if (scale == 0) {
      out += '0';
    } else {
      out += static_cast<char>('0' + rest / scale);
      rest %= scale;
    }
  }
}

// The list of what was sent, complete before the corresponding bytes leave.
class SentList {
 public:
  explicit SentList(const std::string& path) {
    if (path.empty()) return;
    file_ = std::fopen(path.c_str(), "a");
    if (file_ == nullptr) throw std::runtime_error(path + ": cannot be written");
  }
  ~SentList() {
    if (file_ != nullptr) std::fclose(file_);
  }
  SentList(const SentList&) = delete;
  SentList& operator=(const SentList&) = delete;

  bool wanted() const { return file_ != nullptr; }
  void add(std::string_view symbol, std::int64_t id, std::size_t receivers) {
    if (file_ == nullptr) return;
    line_ = symbol;
    line_ += ' ';
    append_number(line_, id);
    line_ += ' ';
    append_number(line_, static_cast<std::int64_t>(receivers));
    line_ += '\n';
    std::fwrite(line_.data(), 1, line_.size(), file_);
  }
  void add_post(std::string_view symbol, std::string_view id) {
    if (file_ == nullptr) return;
    line_ = "post ";
    line_ += symbol;
    line_ += ' ';
    line_ += id;
    line_ += '\n';
    std::fwrite(line_.data(), 1, line_.size(), file_);
  }
  void add_answer(std::string_view document) {
    if (file_ == nullptr) return;
    line_ = "answer ";
    line_ += document;
    line_ += '\n';
    std::fwrite(line_.data(), 1, line_.size(), file_);
  }
  void flush() {
    if (file_ != nullptr) std::fflush(file_);
  }

 private:
  std::FILE* file_ = nullptr;
  std::string line_;
};

// Where a trade goes: into the history, and to everybody who listens.
class Outlet {
 public:
  Outlet(Subscriptions& listeners, History& history, Chatter& chatter, SentList& sent)
      : subscriptions(listeners), history_(history), chatter_(chatter), sent_(sent) {}

  // Returns how many receive it.
  std::size_t trade(const Trade& trade, const std::string& trade_stream, const std::string& agg_stream) {
    begin(trade);
    std::size_t receivers = 0;
    for (const Stream kind : {Stream::trade, Stream::agg_trade}) {
      const auto& stream = kind == Stream::trade ? trade_stream : agg_stream;
      if (!subscriptions.listens(stream)) continue;
      payload_.clear();
      append_binance(payload_, trade, kind);
      receivers += subscriptions.send(stream, payload_, true);
    }
    return receivers + (subscriptions.listens_elsewhere() ? subscriptions.send(trade) : 0);
  }

  // For a trade whose message is at hand already.
  void begin(const Trade& trade) {
    history_.add(trade);
    subscriptions.next_trade();
    chatter_.trade(trade.symbol, trade.time_us, [&](const Chatter::Event& event) {
      for (const auto& symbol : event.symbols) sent_.add_post(symbol, event.id);
      subscriptions.send(event);
    });
  }

  Subscriptions& subscriptions;

 private:
  History& history_;
  Chatter& chatter_;
  SentList& sent_;
  std::string payload_;
};

// ---- where the ticks come from

class Source {
 public:
  virtual ~Source() = default;
  // Sends what is due and says when to come back; sets `ended` when there is nothing more for ever.
  virtual std::chrono::microseconds turn(Outlet& out, SentList& sent, bool& ended) = 0;
  virtual std::string summary() const = 0;
};

class WalkSource final : public Source {
 public:
  explicit WalkSource(const FakeOptions& options)
      : random_(options.seed),
        rate_(options.rate),
        total_(options.seconds > 0 ? static_cast<std::uint64_t>(std::llround(options.rate * options.seconds))
                                   : 0) {
    std::int64_t first = options.first_id;
    if (first == 0)
      first = std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now())
                  .time_since_epoch()
                  .count();
    for (const auto& name : options.symbols) {
      State state;
      state.name = name;
      state.trade_stream = lower(name) + "@trade";
      state.agg_stream = lower(name) + "@aggTrade";
      state.id = first;
      state.cents = 1000 + static_cast<std::int64_t>(random_.below(6'000'000));
      symbols_.push_back(std::move(state));
    }
  }

  std::chrono::microseconds turn(Outlet& out, SentList& sent, bool& ended) override {
    if (sent_ == 0 && start_ == Clock::time_point{}) {
      start_ = Clock::now();
      start_us_ = std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now())
                      .time_since_epoch()
                      .count();
    }
    const double elapsed = std::chrono::duration<double>(Clock::now() - start_).count();
    std::uint64_t due = static_cast<std::uint64_t>(elapsed * rate_);
    if (total_ > 0) due = std::min(due, total_);
    const bool behind = due > sent_ + most_ticks_per_turn;
    if (behind) due = sent_ + most_ticks_per_turn;
    while (sent_ < due) one(out, sent);
    ended = total_ > 0 && sent_ >= total_;
    return behind ? std::chrono::microseconds(0) : turn_interval;
  }

  std::string summary() const override { return std::to_string(sent_) + " ticks of a random walk"; }

 private:
  struct State {
    std::string name;
    std::string trade_stream;
    std::string agg_stream;
    std::int64_t id = 0;
    std::int64_t cents = 0;
  };

  void one(Outlet& out, SentList& sent) {
    State& state = symbols_[random_.below(symbols_.size())];
    const std::uint64_t dice = random_.next();
    const auto step = static_cast<std::int64_t>(dice % 21) - 10;
    state.cents =
        std::max<std::int64_t>(100, state.cents + step * std::max<std::int64_t>(1, state.cents / 50'000));
    const auto qty_units = static_cast<std::int64_t>(1 + (dice >> 8) % 200'000);
    const std::int64_t id = state.id++;
    // Event time is the scheduled time: a stall of this process shows as latency, not as a change of history.
    const auto us = start_us_ + static_cast<std::int64_t>(static_cast<double>(sent_) / rate_ * 1e6);
    ++sent_;
    price_.clear();
    qty_.clear();
    append_decimal(price_, state.cents, 2);
    append_decimal(qty_, qty_units, 5);
    const Trade event{state.name, id, price_, qty_, us, (dice >> 40) % 2 == 0};
    const std::size_t receivers = out.trade(event, state.trade_stream, state.agg_stream);
    sent.add(state.name, id, receivers);
  }

  Random random_;
  std::vector<State> symbols_;
  double rate_;
  std::uint64_t total_;
  std::uint64_t sent_ = 0;
  Clock::time_point start_{};
  std::int64_t start_us_ = 0;
  std::string price_;
  std::string qty_;
};

class RecordingSource final : public Source {
 public:
  explicit RecordingSource(const FakeOptions& options) : files_(options.recordings), speed_(options.speed) {
    for (const auto& file : files_) RecordReader check(file);
  }

  std::chrono::microseconds turn(Outlet& out, SentList& sent, bool& ended) override {
    for (std::size_t n = 0; n < most_ticks_per_turn; ++n) {
      if (!held_ && !read()) {
        ended = true;
        return turn_interval;
      }
      if (speed_ > 0) {
        const auto due = file_start_ + std::chrono::duration_cast<Clock::duration>((time_ - first_) / speed_);
        const auto left = due - Clock::now();
        if (left > Clock::duration::zero())
          return std::min(std::chrono::ceil<std::chrono::microseconds>(left),
                          std::chrono::microseconds(100'000));
      } else if (n % 64 == 63 && out.subscriptions.worst_backlog() > full_speed_backlog) {
        return turn_interval;
      }
      send(out, sent);
      held_ = false;
    }
    return std::chrono::microseconds(0);
  }

  std::string summary() const override {
    return std::to_string(frames_) + " frames of " + std::to_string(files_.size()) + " recordings, " +
           std::to_string(delivered_) + " of them to somebody";
  }

 private:
  bool read() {
    for (;;) {
      if (!reader_) {
        if (next_file_ == files_.size()) return false;
        const std::string& file = files_[next_file_++];
        log::info("sending " + file);
        reader_ = std::make_unique<RecordReader>(file);
        decoder_ = std::make_unique<RecordDecoder>(reader_->framing(), row_options(file));
        first_ = Timestamp{};
        file_start_ = Clock::now();
      }
      if (reader_->next(record_)) break;
      reader_.reset();
    }
    ticks_.clear();
    if (rows()) decoder_->decode(record_, ticks_);
    if (record_.received != Timestamp{})
      time_ = record_.received;
    else if (!ticks_.empty())
      time_ = ticks_.back().ts;
    if (first_ == Timestamp{}) first_ = time_;
    held_ = true;
    return true;
  }

  bool rows() const { return reader_->framing() == Framing::array || reader_->framing() == Framing::csv; }

  static DecodeOptions row_options(const std::string& file) {
    DecodeOptions options;
    options.rows.symbol = symbol_of_file(file);
    options.rows.offset = std::chrono::minutes(0);
    return options;
  }

  void send(Outlet& out, SentList& sent) {
    ++frames_;
    if (rows()) {
      for (const auto& tick : ticks_) send_tick(tick, out, sent);
      return;
    }
    std::string_view payload = record_.text;
    if (payload.starts_with("{\"stream\":\"")) {
      const auto name_end = payload.find('"', 11);
      const auto data = payload.find("\"data\":");
      const auto end = payload.rfind('}');
      if (name_end == std::string_view::npos || data == std::string_view::npos || end <= data) return;
      stream_ = payload.substr(11, name_end - 11);
      payload = payload.substr(data + 7, end - data - 7);
    } else {
      const auto kind = member(payload, "\"e\":\"");
      const auto symbol = member(payload, "\"s\":\"");
      if (!kind.empty() && !symbol.empty())
        stream_ = lower(symbol) + "@" + std::string(kind);
      else
        stream_.clear();
    }
    ticks_.clear();
    if (stream_.empty() || stream_.ends_with("rade")) {  // trade, aggTrade, or another exchange's frame
      Record inner = record_;
      inner.text = payload;
      decoder_->decode(inner, ticks_);
    }
    if (stream_.empty()) {
      for (const auto& tick : ticks_) send_tick(tick, out, sent);
      return;
    }
    std::size_t receivers = 0;
    for (const auto& tick : ticks_) {
      const Trade trade = trade_of(tick);
      out.begin(trade);
      if (out.subscriptions.listens_elsewhere()) receivers += out.subscriptions.send(trade);
    }
    receivers += out.subscriptions.send(stream_, payload, !ticks_.empty());
    delivered_ += receivers > 0;
    for (const auto& tick : ticks_) sent.add(tick.symbol.view(), tick.id, receivers);
  }

  // Valid until the next call.
  Trade trade_of(const Tick& tick) {
    const auto price_end = std::to_chars(price_, std::end(price_), tick.price, std::chars_format::fixed).ptr;
    const auto qty_end = std::to_chars(qty_, std::end(qty_), tick.qty, std::chars_format::fixed).ptr;
    return {tick.symbol.view(),
            tick.id,
            {price_, static_cast<std::size_t>(price_end - price_)},
            {qty_, static_cast<std::size_t>(qty_end - qty_)},
            tick.ts.time_since_epoch().count(),
            tick.maker == Maker::buyer};
  }

  void send_tick(const Tick& tick, Outlet& out, SentList& sent) {
    const std::string name = lower(instrument(tick.symbol.view()));
    const std::size_t receivers = out.trade(trade_of(tick), name + "@trade", name + "@aggTrade");
    delivered_ += receivers > 0;
    sent.add(tick.symbol.view(), tick.id, receivers);
  }

  static std::string_view member(std::string_view text, std::string_view key) {
    const auto at = text.find(key);
    if (at == std::string_view::npos) return {};
    const auto start = at + key.size();
    return text.substr(start, text.find('"', start) - start);
  }

  std::vector<std::string> files_;
  double speed_;
  std::size_t next_file_ = 0;
  std::unique_ptr<RecordReader> reader_;
  std::unique_ptr<RecordDecoder> decoder_;
  Record record_;
  std::vector<Tick> ticks_;
  Timestamp time_{};
  Timestamp first_{};
  Clock::time_point file_start_{};
  bool held_ = false;
  std::uint64_t frames_ = 0;
  std::uint64_t delivered_ = 0;
  std::string stream_;
  char price_[400];
  char qty_[400];
};

class Exchange final : public ServerHandler {
 public:
  explicit Exchange(const FakeOptions& options)
      : history_(options.history, options.busy_every),
        chatter_(options.post_every, options.seed),
        subscriptions_(options.faults, history_, chatter_),
        sent_(options.sent_file),
        outlet_(subscriptions_, history_, chatter_, sent_),
        document_age_(options.document_age),
        wait_(options.wait),
        exit_(options.exit) {
    if (options.recordings.empty())
      source_ = std::make_unique<WalkSource>(options);
    else
      source_ = std::make_unique<RecordingSource>(options);
  }

  void attach(Server& server) { subscriptions_.attach(server); }
  bool finished() const { return finished_; }
  std::string summary() const {
    std::string text = source_->summary();
    if (history_.requests() > 0)
      text += "; " + std::to_string(history_.requests()) + " REST requests, " +
              std::to_string(history_.turned_away()) + " turned away";
    const std::string faults = subscriptions_.fault_summary();
    return faults.empty() ? text : text + "; " + faults;
  }

  bool serves(std::string_view target) override { return Subscriptions::serves(target); }
  void open(ClientId client, std::string_view target) override { subscriptions_.open(client, target); }
  void text(ClientId client, std::string_view message) override { subscriptions_.request(client, message); }
  void closed(ClientId client) override { subscriptions_.close(client); }
  void lost(ClientId client) override {
    log::warn("client " + std::to_string(client) + " answers no pings, dropped");
  }
  HttpReply get(std::string_view target) override {
    constexpr std::string_view fault = "/fault/";
    if (target.starts_with(fault)) {
      const bool ordered = subscriptions_.order_fault(target.substr(fault.size()));
      return ordered ? HttpReply{200, "{}"} : HttpReply{404, "no such fault, or no such client"};
    }
    auto quotes = prices(target);
    if (!quotes && target == "/rss") quotes = HttpReply{200, chatter_.rss(), 0, "application/rss+xml"};
    return quotes ? document(target, std::move(*quotes)) : history_.rest(target);
  }

  // The prices of a document that is polled; nothing where there is none such.
  std::optional<HttpReply> prices(std::string_view target) {
    Prices& kept = prices_[std::string(target)];
    const auto now = Clock::now();
    if (kept.reply && now < kept.until) return kept.reply;
    kept = {history_.quotes(target), now + document_age_};
    if (kept.reply) return kept.reply;
    prices_.erase(std::string(target));
    return std::nullopt;
  }

  // A document that is polled: with its version, and with what may befall it on the way.
  HttpReply document(std::string_view target, HttpReply reply) {
    reply.version.etag = "\"" + std::to_string(std::hash<std::string>()(reply.body)) + "\"";
    const auto fault = subscriptions_.fault_of_answer();
    HttpReply& last = documents_[std::string(target)];
    if (!fault) {
      if (reply.content_type.ends_with("json")) sent_.add_answer(reply.body);
      sent_.flush();
      last = reply;
      return reply;
    }
    switch (*fault) {
      case Fault::mute:
      case Fault::half_open:
        return {0, "", 0, "", {}, std::chrono::seconds(5)};
      case Fault::drop:
      case Fault::close_1006:
        return {0, ""};
      case Fault::duplicate:  // once more in full, asked for or not
        last.version = {};
        return last.status == 0 ? HttpReply{502, "no answer of before"} : last;
      case Fault::reorder:  // an old one, as from a cache that lags behind
        return last.status == 0 ? HttpReply{502, "no answer of before"} : last;
      case Fault::bad_json:
        return {200, reply.body.substr(0, reply.body.size() / 2), 0, reply.content_type, reply.version};
      case Fault::giant:
        return {200, std::string(giant_document, 'x'), 0, reply.content_type};
      case Fault::gap:
        return {500, "oops"};
      case Fault::close_1001:
      case Fault::close_1012:
        return {503, "service restart"};
      case Fault::shutdown:
      case Fault::no_pong:
        return {429, "too many requests", 1};
      case Fault::slow:
        if (reply.content_type.ends_with("json")) sent_.add_answer(reply.body);
        sent_.flush();
        last = reply;
        reply.delay = slow_document;
        return reply;
    }
    return reply;
  }

  std::chrono::microseconds turn() override {
    if (wait_ && !subscriptions_.any()) return turn_interval;
    wait_ = false;
    subscriptions_.turn();
    if (ended_) {
      if (exit_ && subscriptions_.worst_backlog() == 0) finished_ = true;
      return std::chrono::milliseconds(20);
    }
    const auto delay = source_->turn(outlet_, sent_, ended_);
    sent_.flush();
    if (++turns_ % 128 == 0) subscriptions_.drop_slow();
    if (ended_) log::info("everything sent: " + source_->summary());
    return delay;
  }

 private:
  History history_;
  Chatter chatter_;
  Subscriptions subscriptions_;
  SentList sent_;
  Outlet outlet_;
  std::unique_ptr<Source> source_;
  std::map<std::string, HttpReply> documents_;  // the last of each that was given
  struct Prices {
    std::optional<HttpReply> reply;
    Clock::time_point until;
  };
  std::map<std::string, Prices> prices_;
  std::chrono::milliseconds document_age_;
  bool wait_;
  bool exit_;
  bool ended_ = false;
  std::uint64_t turns_ = 0;
  std::atomic<bool> finished_{false};
};

}  // namespace

std::vector<std::string> fake_symbols(const std::string& text) {
  const auto count = parse_integer(text);
  if (!count) return split_symbols(text);
  std::vector<std::string> symbols;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(*count, 100'000); ++i) {
    char name[32];
    std::snprintf(name, sizeof name, "SYM%03dUSDT", static_cast<int>(i));
    symbols.emplace_back(name);
  }
  return symbols;
}

int run_fake(const FakeOptions& options) {
  try {
    Exchange exchange(options);
    Server server(options.server, exchange);
    exchange.attach(server);
    std::printf("listening on %s:%u\n", options.server.address.c_str(), static_cast<unsigned>(server.port()));
    if (server.tls_port() != 0)
      std::printf("TLS on %s:%u\n", options.server.address.c_str(), static_cast<unsigned>(server.tls_port()));
    std::fflush(stdout);
    std::atomic<bool> failed{false};
    std::thread thread([&] {
      try {
        server.run();
      } catch (const std::exception& error) {
        log::error(error.what());
        failed = true;
      }
    });
    while (!failed && !exchange.finished() && !wait_for_signal(50)) {
    }
    server.stop();
    thread.join();
    log::info("stopped: " + exchange.summary());
    return failed ? exit_failed : exit_ok;
  } catch (const std::exception& error) {
    log::error("fake on " + options.server.address + ":" + std::to_string(options.server.port) + ": " +
               std::string(log::plain(error.what())));
    return exit_failed;
  }
}

}  // namespace tick::ingest
