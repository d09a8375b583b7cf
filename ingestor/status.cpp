// /metrics, /healthz and /status; see status.hpp.
#include "status.hpp"

#include <cstdio>
#include <stdexcept>
#include <thread>

#include <simdjson.h>

#include "log.hpp"
#include "page.hpp"
#include "position.hpp"
#include "run.hpp"
#include "socket.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t most_unread = 8u << 20;  // bytes; a browser that does not read is let go

std::int64_t steady_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string decimal(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.3f", value);
  return text;
}

struct Line {
  const char* name;
  const char* help;
  bool counter;
  double value;
};

std::vector<Line> lines(const Stats& stats, const Gauges& gauges) {
  const auto n = [](const Stats::Counter& counter) { return static_cast<double>(counter.load()); };
  return {
      {"connected", "1 while a connection to the exchange is open", false, stats.connected ? 1.0 : 0.0},
      {"messages", "messages received", true, n(stats.messages)},
      {"ticks", "ticks received", true, n(stats.ticks)},
      {"rows", "rows committed", true, n(stats.rows)},
      {"batches", "transactions committed", true, n(stats.batches)},
      {"duplicates", "ticks that were in already", true, n(stats.duplicates)},
      {"rejected", "messages that cannot be ticks", true, n(stats.malformed)},
      {"refused", "rows the database refused", true, n(stats.refused)},
      {"repaired", "trades fetched by repair", true, n(stats.repaired)},
      {"repair_requests", "REST requests of repair", true, n(stats.repair_requests)},
      {"repair_failures", "REST requests that failed", true, n(stats.repair_failures)},
      {"gaps_unfilled", "gaps the exchange cannot fill", true, n(stats.gaps_unfilled)},
      {"missing", "ids in gaps now", false, n(stats.missing)},
      {"unread", "events of the topic that are not committed yet", false, n(stats.unread)},
      {"feed_reconnects", "connections to the exchange that ended", true, n(stats.feed_reconnects)},
      {"database_reconnects", "connections to the database that ended", true, n(stats.database_reconnects)},
      {"in_memory", "ticks waiting in memory", false, static_cast<double>(gauges.in_memory)},
      {"spooled", "ticks waiting on disk", false, static_cast<double>(gauges.spooled)},
      {"dropped", "ticks dropped because the spool was full", true, static_cast<double>(gauges.dropped)},
      {"lag_milliseconds", "received to committed", false, lag_ms(stats, gauges)},
  };
}

}  // namespace

double lag_ms(const Stats& stats, const Gauges& gauges) {
  const double last = static_cast<double>(stats.lag_us.load()) / 1000;
  if (gauges.in_memory + gauges.spooled == 0) return last;
  const std::int64_t committed = stats.committed_at_us;
  return std::max(last, committed == 0 ? 0.0 : static_cast<double>(steady_us() - committed) / 1000);
}

struct StatusServer::Impl final : ServerHandler {
  const Stats& stats;
  std::function<Gauges()> gauges;
  std::string feed;
  std::unique_ptr<Server> server;
  std::thread thread;

  LivePage page;

  Impl(const Stats& stats_in, std::function<Gauges()> gauges_in, std::string feed_in, std::string database)
      : stats(stats_in), gauges(std::move(gauges_in)), feed(std::move(feed_in)), page(std::move(database)) {}

  bool serves(std::string_view target) override { return LivePage::serves(target); }
  void open(ClientId client, std::string_view target) override { page.open(client, target); }
  void text(ClientId, std::string_view) override {}
  void closed(ClientId client) override { page.closed(client); }
  std::chrono::microseconds turn() override {
    return page.turn([&](ClientId client, std::string_view text) {
      if (server->backlog(client) > most_unread) return server->drop(client);
      server->send(client, text);
    });
  }

  HttpReply get(std::string_view target) override {
    const Gauges now = gauges();
    if (target == "/healthz")
      return stats.connected ? HttpReply{200, "ok\n", 0, "text/plain"}
                             : HttpReply{503, "not connected to the exchange\n", 0, "text/plain"};
    if (target == "/metrics") {
      std::string out;
      for (const auto& line : lines(stats, now)) {
        const std::string name = "tick_ingest_" + std::string(line.name) + (line.counter ? "_total" : "");
        out += "# HELP " + name + " " + line.help + "\n# TYPE " + name +
               (line.counter ? " counter\n" : " gauge\n");
        out += name + "{feed=";
        append_json_string(out, feed);
        out += "} " + decimal(line.value) + "\n";
      }
      return {200, out, 0, "text/plain; version=0.0.4"};
    }
    if (target == "/status") {
      std::string out = "{\"feed\":";
      append_json_string(out, feed);
      for (const auto& line : lines(stats, now))
        out += ",\n \"" + std::string(line.name) + "\":" + decimal(line.value);
      return {200, out + "}\n"};
    }
    if (target == "/") return {200, LivePage::html(), 0, "text/html; charset=utf-8"};
    return {404, "there are / (candles), /metrics, /healthz and /status\n", 0, "text/plain"};
  }
};

StatusServer::StatusServer(const std::string& listen, const Stats& stats, std::function<Gauges()> gauges,
                           std::string feed, std::string database)
    : impl_(std::make_unique<Impl>(stats, std::move(gauges), std::move(feed), std::move(database))) {
  const auto url = parse_url("http://" + listen, "http");
  ServerOptions options;
  options.address = url && url->host != "localhost" ? url->host : "127.0.0.1";
  options.port = static_cast<std::uint16_t>(url ? std::stoul(url->port) : 0);
  options.ping_every = std::chrono::seconds(15);  // a browser that has gone without a word
  try {
    impl_->server = std::make_unique<Server>(options, *impl_);
  } catch (const std::exception& error) {
    throw std::runtime_error("metrics.listen " + listen + ": " + std::string(log::plain(error.what())));
  }
  log::info("candles on http://" + options.address + ":" + std::to_string(impl_->server->port()) + "/");
  log::info("status on http://" + options.address + ":" + std::to_string(impl_->server->port()) + "/status");
  impl_->thread = std::thread([impl = impl_.get()] { impl->server->run(); });
}

StatusServer::~StatusServer() {
  impl_->server->stop();
  impl_->thread.join();
}

int run_status(const Config& config, std::chrono::microseconds max_lag) {
  if (config.listen.empty()) {
    log::error(
        "no address to ask: give --listen, TICK_LISTEN or metrics.listen as the running ingestor has it");
    return exit_usage;
  }
  const auto url = parse_url("http://" + config.listen + "/status", "http");
  const HttpReply reply = http_get(*url, {}, std::chrono::seconds(5));
  if (reply.status != 200) {
    log::error("no ingestor answers on " + config.listen + ": " +
               (reply.status == 0 ? reply.body : "HTTP status " + std::to_string(reply.status)));
    return exit_failed;
  }
  std::fputs(reply.body.c_str(), stdout);
  simdjson::dom::parser parser;
  simdjson::dom::object root;
  double lag = 0;
  double connected = 0;
  if (parser.parse(reply.body).get(root) || root["lag_milliseconds"].get(lag) ||
      root["connected"].get(connected)) {
    log::error(config.listen + " is no tick-ingest");
    return exit_failed;
  }
  if (connected == 0) log::error("the feed is not connected");
  const bool late = max_lag.count() > 0 && lag * 1000 > static_cast<double>(max_lag.count());
  if (late) log::error("the lag is above --max-lag");
  return connected == 0 || late ? exit_failed : exit_ok;
}

}  // namespace tick::ingest
