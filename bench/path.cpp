// From the exchange to the candle: what decoding costs beside receiving, and how long a frame takes through
// tick-ingest and tick.ingest until a reader sees it in a candle, everything on the machine's cores at once.
// Usage: path CONNINFO TICK_INGEST DIRECTORY; RATES, ROUNDS, MESSAGES and DURATION in the environment.
// Promise: receiving with and without decoding is measured in turns in one run; the fake exchange keeps its
// schedule whatever happens, and times count from it; the program fails if a rollup is not exact or a tick is
// missing.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <atomic>
#include <sstream>
#include <thread>

#include "../ingestor/feed.hpp"
#include "../ingestor/socket.hpp"
#include "../ingestor/wire.hpp"
#include "trades.hpp"

namespace tick::bench {
namespace {

double thread_cpu() {
  timespec at;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
  return static_cast<double>(at.tv_sec) + static_cast<double>(at.tv_nsec) * 1e-9;
}

// ---- receiving ------------------------------------------------------------

// Sends the same messages to whoever connects, as fast as they are taken.
class Sender final : public ingest::ServerHandler {
 public:
  Sender(const std::vector<std::string>& messages, const ingest::ServerOptions& options)
      : messages_(messages), server_(options, *this), thread_([this] { server_.run(); }) {}
  ~Sender() override {
    server_.stop();
    thread_.join();
  }
  std::uint16_t port(bool tls) const { return tls ? server_.tls_port() : server_.port(); }

  bool serves(std::string_view) override { return true; }
  void open(ingest::ClientId client, std::string_view) override {
    client_ = client;
    sent_ = 0;
  }
  void text(ingest::ClientId, std::string_view) override {}
  void closed(ingest::ClientId) override { client_ = 0; }
  std::chrono::microseconds turn() override {
    if (client_ == 0 || sent_ == messages_.size()) return std::chrono::milliseconds(1);
    while (sent_ < messages_.size() && server_.backlog(client_) < enough)
      server_.send(client_, messages_[sent_++]);
    return std::chrono::microseconds(50);
  }

 private:
  static constexpr std::size_t enough = 1 << 20;
  const std::vector<std::string>& messages_;
  ingest::ClientId client_ = 0;
  std::size_t sent_ = 0;
  ingest::Server server_;
  std::thread thread_;
};

class Receiver final : public ingest::FrameHandler {
 public:
  Receiver(ingest::Client& client, std::size_t expected, bool decodes)
      : client_(client), expected_(expected), decodes_(decodes) {}
  void opened() override {
    started_ = now();
    cpu_started_ = thread_cpu();
  }
  bool room() override { return true; }
  bool frame(std::string_view text, std::chrono::system_clock::time_point received) override {
    bytes_ += text.size();
    if (decodes_) {
      feed_->decode(text, std::chrono::floor<std::chrono::microseconds>(received), ticks_);
      decoded_ += ticks_.size();
      ticks_.clear();
    }
    if (++count_ < expected_) return true;
    took = now() - started_;
    cpu = thread_cpu() - cpu_started_;
    client_.stop();
    return true;
  }
  bool complete() const { return count_ == expected_ && (!decodes_ || decoded_ == expected_); }

  double took = 0, cpu = 0;

 private:
  ingest::Client& client_;
  std::size_t expected_, count_ = 0, bytes_ = 0, decoded_ = 0;
  bool decodes_;
  double started_ = 0, cpu_started_ = 0;
  std::unique_ptr<ingest::Feed> feed_ = ingest::make_binance_feed(ingest::Stream::trade);
  std::vector<ingest::Tick> ticks_;
};

bool receive(const std::string& certificate) {
  const auto count = static_cast<std::size_t>(std::max<long>(setting("MESSAGES", 300000), 1000));
  const long rounds = std::max<long>(setting("ROUNDS", 7), 1);
  std::vector<std::string> messages(count);
  Walk walk(4);
  std::int64_t id = 3735683259;
  for (std::string& message : messages) {
    const Trade trade = walk.next(0, ++id);
    char symbol[16], stream[24], price[32], qty[32];
    std::snprintf(symbol, sizeof symbol, "SYM%03dUSDT", trade.symbol);
    std::snprintf(stream, sizeof stream, "sym%03dusdt@trade", trade.symbol);
    std::snprintf(price, sizeof price, "%.8f", trade.price);
    std::snprintf(qty, sizeof qty, "%.8f", trade.qty);
    message = std::string(R"({"stream":")") + stream + R"(","data":)";
    ingest::append_binance(message, {symbol, id, price, qty, 1723161255342000, trade.maker},
                           ingest::Stream::trade);
    message += '}';
  }
  ingest::ServerOptions served;
  served.tls_certificate = certificate;
  Sender sender(messages, served);
  std::printf("\n%zu messages of %zu bytes over one WebSocket, %ld interleaved rounds, medians\n", count,
              messages[0].size(), rounds);
  std::printf("%-34s %12s %8s %12s %8s\n", "", "messages/s", "ratio", "CPU ns", "ratio");
  for (const bool tls : {false, true}) {
    const ingest::Url url{tls, "127.0.0.1", std::to_string(sender.port(tls)), "/"};
    std::vector<double> rate[2], cpu[2], ratio, cpu_ratio;
    for (long round = 0; round < rounds; ++round) {
      for (const bool decodes : {false, true}) {
        ingest::Client client;
        ingest::ClientOptions options;
        options.tls.verify = false;
        Receiver receiver(client, count, decodes);
        const std::string why = client.run(url, options, receiver);
        if (!receiver.complete()) {
          std::fprintf(stderr, "bench: not every message came: %s\n", why.c_str());
          return false;
        }
        rate[decodes].push_back(static_cast<double>(count) / receiver.took);
        cpu[decodes].push_back(receiver.cpu * 1e9 / static_cast<double>(count));
      }
      ratio.push_back(rate[true].back() / rate[false].back());
      cpu_ratio.push_back(cpu[false].back() / cpu[true].back());
    }
    const char* how = tls ? "TLS: receive" : "receive";
    std::printf("%-34s %12.0f %8.2f %12.0f %8.2f\n", how, median(rate[false]), 1.0, median(cpu[false]), 1.0);
    std::printf("%-34s %12.0f %8.2f %12.0f %8.2f\n", (std::string(how) + " + decode").c_str(),
                median(rate[true]), median(ratio), median(cpu[true]), median(cpu_ratio));
  }
  std::printf("CPU: of the receiving thread, per message\n");
  std::fflush(stdout);
  return true;
}

// ---- the whole path ------------------------------------------------------------

// A child process with its output in a file, or its first line of output read.
class Process {
 public:
  Process(std::vector<std::string> arguments, const std::string& log) {
    int ends[2];
    if (pipe(ends) != 0) std::exit(1);
    pid_ = fork();
    if (pid_ == 0) {
      const int file = open(log.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0644);
      dup2(ends[1], 1);
      dup2(file, 2);
      close(ends[0]);
      std::vector<char*> words;
      for (std::string& argument : arguments) words.push_back(argument.data());
      words.push_back(nullptr);
      execv(words[0], words.data());
      _exit(127);
    }
    close(ends[1]);
    out_ = fdopen(ends[0], "r");
  }
  ~Process() { end(); }
  int pid() const { return pid_; }
  std::string line() {
    char text[256];
    return std::fgets(text, sizeof text, out_) == nullptr ? "" : text;
  }
  // The exit code after SIGTERM.
  int end() {
    if (pid_ <= 0) return code_;
    kill(pid_, SIGTERM);
    int status = 0;
    waitpid(pid_, &status, 0);
    std::fclose(out_);
    pid_ = 0;
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return code_;
  }

 private:
  pid_t pid_ = 0;
  int code_ = 0;
  FILE* out_ = nullptr;
};

class Path : public Trades {
 public:
  Path(std::string conninfo, std::string program, std::string directory)
      : Trades(std::move(conninfo)), program_(std::move(program)), directory_(std::move(directory)) {
    db_.run("CREATE EXTENSION IF NOT EXISTS pg_tick");
  }
  void measure(long rate);
  bool complete() const { return complete_; }

 private:
  struct Seen {
    std::int64_t at, id;  // wall clock
  };
  std::string program_, directory_;
  bool complete_ = true;
};

void Path::measure(long rate) {
  const long seconds = setting("DURATION", 20), warm = 2;
  const long total = rate * (seconds + warm);
  create_table("now()", true);
  create_rollups(3);
  db_.run("SELECT tick.alter_source('trades', dedup_key => '{exchange,symbol}', dedup_id => 'trade_id')");
  wait();
  const int worker = worker_pid();
  Process fake({program_, "fake", "--symbols", std::to_string(symbols), "--rate", std::to_string(rate),
                "--seconds", std::to_string(seconds + warm), "--wait", "--first-id", "1", "--ping", "0"},
               directory_ + "/fake.log");
  const std::string line = fake.line();
  const auto colon = line.rfind(':');
  const std::string address = colon == std::string::npos
                                  ? ""
                                  : "ws://127.0.0.1:" + std::to_string(std::atoi(line.c_str() + colon + 1));
  std::string names;
  for (int symbol = 0; symbol < symbols; ++symbol) {
    char name[16];
    std::snprintf(name, sizeof name, "%sSYM%03dUSDT", symbol == 0 ? "" : ",", symbol);
    names += name;
  }

  std::atomic<bool> over = false;
  std::vector<Seen> seen;
  std::vector<double> polls;
  std::thread reading([&] {
    prctl(PR_SET_TIMERSLACK, 1);
    Connection reader(conninfo_);
    LastId poll(reader);
    std::int64_t last = 0;
    double before = 0;
    for (double at = now(); !over; at = std::max(at + 0.0005, now())) {
      sleep_until(at);
      const auto id = poll.read();
      const std::int64_t read = wall_micros();
      if (before != 0 && last > 0) polls.push_back((now() - before) * 1e3);
      before = now();
      if (!id || *id <= last) continue;
      seen.push_back({read, *id});
      last = *id;
    }
  });

  Process ingestor({program_, "run", "--url", address, "--symbols", names, "--repair", "off", "--database",
                    conninfo_, "--exchange", "binance"},
                   directory_ + "/ingest.log");
  const auto there = [&] { return std::atol(db_.value("SELECT count(*) FROM trades").c_str()); };
  for (const double give_up = now() + 20; there() == 0 && now() < give_up;) sleep_until(now() + 0.01);
  sleep_until(now() + static_cast<double>(warm));
  const int writer =
      std::atoi(db_.value("SELECT pid FROM pg_stat_activity WHERE application_name = 'tick-ingest'"
                          " ORDER BY (query ~ 'tick.ingest') DESC LIMIT 1")
                    .c_str());
  const int pids[] = {fake.pid(), ingestor.pid(), writer, worker};
  Usage before[4], used[4];
  for (int i = 0; i < 4; ++i) before[i] = usage(pids[i]);
  const double from = now();
  sleep_until(from + static_cast<double>(seconds - 1));
  for (int i = 0; i < 4; ++i) used[i] = usage(pids[i]) - before[i];
  const double percent = 100 / (now() - from);
  // To count rows costs a core: not before all have been sent.
  sleep_until(from + static_cast<double>(seconds) + 1);
  for (const double give_up = now() + 60; there() < total && now() < give_up;) sleep_until(now() + 0.05);
  wait();
  sleep_until(now() + 0.1);
  over = true;
  reading.join();
  const int code = ingestor.end();
  const long came = there();
  if (code != 0 || came != total) {
    std::printf("NOT COMPLETE: %ld of %ld ticks, exit code %d\n", came, total, code);
    complete_ = false;
  }

  // When each trade of the symbol was due on the wire, and when a candle first showed it.
  std::vector<double> visible;
  std::istringstream due(db_.value(
      "SELECT string_agg(trade_id || ' ' || (extract(epoch FROM ts) * 1000000)::int8 - 946684800000000, ' '"
      " ORDER BY trade_id) FROM trades WHERE symbol = 'SYM000USDT' AND ts > (SELECT min(ts) FROM trades) + "
      "'" +
      std::to_string(warm) + " s'"));
  std::size_t next = 0;
  for (std::int64_t id = 0, at = 0; due >> id >> at;) {
    while (next < seen.size() && seen[next].id < id) ++next;
    if (next < seen.size()) visible.push_back(static_cast<double>(seen[next].at - at) / 1e3);
  }
  verify(3);
  const double p50 = quantile(visible, 0.5), p99 = quantile(visible, 0.99);
  std::printf("%8ld %8.2f %8.2f %8.2f %8zu %8.2f %7.1f %% %7.1f %% %7.1f %% %7.1f %% %7.1f %%\n", rate, p50,
              p99, visible.empty() ? 0 : visible.back(), visible.size(), quantile(polls, 0.99),
              used[0].ran * percent, used[1].ran * percent, used[2].ran * percent, used[3].ran * percent,
              (used[0].waited + used[1].waited + used[2].waited + used[3].waited) * percent);
  std::fflush(stdout);
  drop(3);
}

}  // namespace
}  // namespace tick::bench

int main(int argc, char** argv) {
  using namespace tick::bench;
  if (argc < 4) {
    std::fprintf(stderr, "usage: path CONNINFO TICK_INGEST DIRECTORY\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  if (!receive(std::string(argv[3]) + "/cert.pem")) return 1;
  Path path(argv[1], argv[2], argv[3]);
  const char* rates = std::getenv("RATES");
  std::istringstream list(rates == nullptr || *rates == '\0' ? "5000 20000" : rates);
  std::printf(
      "\nFrom the moment a frame is due to the first read of a candle that shows it: fake exchange, "
      "tick-ingest,"
      "\ntick.ingest with dedup, 3 rollups, partitioned by day, %ld s each, ms; CPU of one core\n",
      setting("DURATION", 20));
  std::printf("%8s %8s %8s %8s %8s %8s %9s %9s %9s %9s %9s\n", "ticks/s", "p50", "p99", "max", "samples",
              "poll99", "fake", "ingestor", "backend", "worker", "waited");
  for (long rate = 0; list >> rate;) path.measure(rate);
  std::printf("waited: of these four for a core; poll99: p99 between two reads\n\nrollups exact: %s\n",
              path.exact() && path.complete() ? "yes" : "no");
  return path.exact() && path.complete() ? 0 : 1;
}
