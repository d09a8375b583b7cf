// Checks of the configuration against the world; see check.hpp.
#include "check.hpp"

#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>
#include <thread>

#include <simdjson.h>

#include "database.hpp"
#include "findings.hpp"
#include "kafka.hpp"
#include "live.hpp"
#include "log.hpp"
#include "number.hpp"
#include "pipeline.hpp"
#include "poll.hpp"
#include "posts.hpp"
#include "rows.hpp"
#include "run.hpp"
#include "socket.hpp"

namespace tick::ingest {

namespace {

constexpr auto feed_patience = std::chrono::seconds(10);

// Ids that are no sequence need a unique index, and would fill sets of ids.
void check_duplicates(Database& database, const Config& config, Findings& findings) {
  const std::string parameters[] = {config.table};
  const auto kept = database.query(
      "SELECT EXISTS (SELECT FROM pg_catalog.pg_index WHERE indrelid = $1::regclass AND indisunique),"
      " EXISTS (SELECT FROM tick.sources WHERE source = $1::regclass AND dedup_id IS NOT NULL)",
      parameters);
  const std::string cure =
      "a table of its own, made by tick-ingest init --feed " + config.feed + " --table NAME --no-rollups";
  const bool sequence = find_venue(config.feed)->sequence;
  if (find_venue(config.feed)->way == Venue::Way::lines) {
    if (*kept.at(0).at(0) != "t" && *kept[0][1] != "t")
      findings.note("table " + config.table +
                    " has neither a unique index nor ids: what comes twice is in twice");
    return findings.good("table " + config.table);
  }
  if (!sequence && *kept.at(0).at(1) == "t")
    return findings.mistake("database.table",
                            "table " + config.table + " keeps sets of ids, but those of " + config.feed +
                                " are no sequence and would fill them",
                            cure);
  if (!sequence && *kept[0][0] != "t")
    return findings.mistake("database.table",
                            "ids of " + config.feed + " are no sequence, and table " + config.table +
                                " has no unique index: what comes twice would be in twice",
                            cure);
  findings.good("table " + config.table);
}

void check_database(const Config& config, Findings& findings) {
  std::unique_ptr<Database> database;
  try {
    database = std::make_unique<Database>(config.database);
  } catch (const DatabaseError& error) {
    return findings.mistake("database.conninfo", error.what(),
                            "is the server running, and are host, port, database, user and password right?");
  }
  try {
    const auto who =
        database->query("SELECT current_database(), current_user, current_setting('server_version')");
    findings.good("database " + *who[0][0] + " as " + *who[0][1] + ", PostgreSQL " + *who[0][2]);
    if (database->query("SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_tick'").empty())
      return findings.mistake("database.conninfo", "extension pg_tick is not in database " + *who[0][0],
                              "tick-ingest init creates it, where shared_preload_libraries has pg_tick");
    const bool posts = find_venue(config.feed)->writes_posts();
    const std::string name[] = {config.table};
    const auto table = database->query("SELECT to_regclass($1)::oid", name);
    if (!table.at(0).at(0))
      return findings.mistake("database.table", "there is no table " + config.table,
                              "tick-ingest init creates it; is the name, or its schema, right?");
    if (posts) {
      const std::string wanted[] = {config.table, std::string("{") + post_columns + "}"};
      const auto missing = database->query(
          "SELECT string_agg(n, ', ') FROM unnest($2::text[]) n WHERE NOT EXISTS (SELECT FROM"
          " pg_catalog.pg_attribute WHERE attrelid = $1::regclass AND attname = n AND NOT attisdropped)",
          wanted);
      if (missing.at(0).at(0))
        return findings.mistake("database.table",
                                "table " + config.table + " has no column " + *missing[0][0],
                                "tick-ingest init --feed " + config.feed + " creates one that has all");
    } else {
      TableColumns().open(*database, config.table, config.table_columns);
    }
    const auto rights = database->query("SELECT has_table_privilege($1::regclass, 'INSERT')", name);
    if (*rights.at(0).at(0) != "t")
      findings.mistake("database.table", *who[0][1] + " may not write table " + config.table,
                       "GRANT INSERT, SELECT ON " + config.table + " TO " + *who[0][1]);
    else
      check_duplicates(*database, config, findings);
  } catch (const FatalError& error) {
    findings.mistake(config.table_columns.empty() ? "database.table" : "database.columns", error.what(),
                     "name a table with symbol, ts and price, let tick-ingest init create one, or say in "
                     "database.columns which column of yours gets what");
  } catch (const DatabaseError& error) {
    findings.mistake("database.conninfo", error.what(), "see the message");
  }
}

// The time at which the exchange sent the message, where it tells (Binance's E), as far after its trade.
std::optional<double> sent_after(std::string_view text, Timestamp trade) {
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  std::int64_t ms = 0;
  if (parser.parse(text.data(), text.size()).get(root)) return std::nullopt;
  if (root["E"].get(ms) && root["data"]["E"].get(ms)) return std::nullopt;
  return static_cast<double>(ms) / 1e3 - static_cast<double>(trade.time_since_epoch().count()) / 1e6;
}

class Probe final : public FrameHandler {
 public:
  explicit Probe(std::unique_ptr<Feed> feed) : feed_(std::move(feed)) {}
  std::atomic<bool> open{false};
  std::atomic<bool> tick{false};
  std::string refused;
  std::chrono::microseconds ahead{0};  // the exchange's clock, as far as a message tells
  std::optional<double> delay;         // seconds from a trade to its message, by the exchange's clocks

  void opened() override { open = true; }
  bool room() override { return true; }
  bool frame(std::string_view text, std::chrono::system_clock::time_point received) override {
    const auto now = std::chrono::floor<std::chrono::microseconds>(received);
    std::vector<Tick> ticks;
    const Decoded decoded = feed_->decode(text, Timestamp{}, ticks);
    if (decoded.verdict == Verdict::refused && refused.empty()) refused = text.substr(0, 200);
    if (decoded.verdict != Verdict::tick || tick) return true;
    ahead = ticks.back().ts - now;
    delay = sent_after(text, ticks.back().ts);
    tick = true;
    return true;
  }

 private:
  std::unique_ptr<Feed> feed_;
};

void check_feed(const Config& config, Findings& findings) {
  const Venue& venue = *find_venue(config.feed);
  if (config.symbols.empty() && parse_url(config.url)->target == "/")
    return findings.mistake("feed.symbols", "no symbol is named", "symbols = [\"BTCUSDT\"], or --symbols");
  const auto feed = venue.make(config.stream);
  const auto url = parse_url(feed->url(config.url, config.symbols, config.stream));
  const ClientOptions options = client_options(config, *feed);
  Client client;
  Probe probe(venue.make(config.stream));
  std::string why;
  std::atomic<bool> done{false};
  std::thread thread([&] {
    why = client.run(*url, options, probe);
    done = true;
  });
  const auto until = std::chrono::steady_clock::now() + feed_patience;
  while (!done && !probe.tick && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  client.stop();
  thread.join();
  if (!probe.open)
    return findings.mistake(
        "feed.url", config.url + ": " + (why.empty() ? "no answer" : why),
        "the address of " + config.feed + " is " + std::string(venue.url) +
            (venue.exchange == "binance" ? "; where it is blocked: feed.name = \"binance.data\"" : ""));
  findings.good("connected to " + config.url);
  if (!probe.refused.empty())
    findings.mistake("feed.symbols", "the exchange refused: " + probe.refused,
                     "are the symbols written as it does?");
  if (!probe.tick) return findings.note("no trade came in 10 s: quiet symbols, or wrong ones");
  const double seconds = static_cast<double>(probe.ahead.count()) / 1e6;
  char text[120];
  std::snprintf(text, sizeof text, "a trade came; its time is %.3f s %s this machine's clock",
                seconds < 0 ? -seconds : seconds, seconds < 0 ? "behind" : "ahead of");
  findings.good(text);
  if (!probe.delay) return;
  std::snprintf(text, sizeof text, "the message says that it was sent %.3f s after the trade", *probe.delay);
  findings.good(text);
}

void check_poll(const Config& config, Findings& findings) {
  const auto url = parse_url(poll_address(config), "http");
  const HttpReply reply = http_get(*url, {config.tls_verify, config.tls_ca}, feed_patience);
  if (reply.status != 200)
    return findings.mistake(
        "feed.url",
        config.url + ": " + (reply.status == 0 ? reply.body : "HTTP status " + std::to_string(reply.status)),
        "is the address right, and does the server want to be asked less often?");
  RowOptions options;
  std::string mistake;
  options.columns = parse_columns(config.columns, mistake).value_or(std::map<Role, std::string>());
  options.offset = config.zone;
  options.items = config.items;
  std::vector<Tick> ticks;
  const Decoded decoded = JsonItems(options).decode(reply.body, Timestamp{}, ticks);
  if (decoded.verdict != Verdict::tick)
    return findings.mistake(
        "rows.columns",
        std::string("the answer cannot be read: ") + decoded.reason + ": " + reply.body.substr(0, 200),
        "do rows.items and rows.columns point to what is there?");
  if (const std::string strange = strange_symbols(config.symbols, ticks); !strange.empty())
    findings.mistake("feed.symbols", strange,
                     "write symbols as the answer does; [symbols] gives them other names in the table");
  findings.good("the answer is understood: " + std::to_string(ticks.size()) + " rows, " +
                std::string(ticks[0].symbol.view()) + " at " + format_time(ticks[0].ts));
}

// Whether gaps could be filled.
void check_repair(const Config& config, Findings& findings) {
  if (!config.repair || config.symbols.empty()) return;
  const auto feed = find_venue(config.feed)->make(config.stream);
  const auto now = std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now());
  const auto target = feed->history(config.symbols[0], {1, 1, now - std::chrono::minutes(1)}, nullptr);
  auto url = parse_url(config.repair_url, "http");
  if (!target || !url) return;
  while (url->target.ends_with('/')) url->target.pop_back();
  url->target += *target;
  const HttpReply reply = http_get(*url, {config.tls_verify, config.tls_ca}, feed_patience);
  std::vector<Tick> page;
  const bool good = reply.status == 200 &&
                    feed->decode_history(reply.body, config.symbols[0], now, page).verdict == Verdict::tick;
  if (good) return findings.good("missing trades can be fetched from " + config.repair_url);
  std::string cure = "repair.url = the REST address of the exchange, or repair.enabled = false";
  if (config.feed == "binance.data" && config.stream == Stream::trade)
    cure =
        "that host serves history for feed.stream = \"aggTrade\" only; or repair.url = "
        "\"https://api.binance.com\"";
  findings.mistake("repair.url",
                   config.repair_url + " gives no history of " + config.symbols[0] + ": " +
                       (reply.status == 0 ? reply.body
                                          : "HTTP status " + std::to_string(reply.status) + " " +
                                                reply.body.substr(0, 120)),
                   cure);
}

}  // namespace

int run_check(const ConfigResult& read, const std::optional<EndToEnd>& end_to_end) {
  Findings findings(read);
  for (const auto& mistake : read.mistakes) findings.mistake(mistake);
  if (read.mistakes.empty()) {
    findings.good("configuration");
    check_database(read.config, findings);
    const auto way = find_venue(read.config.feed)->way;
    if (way == Venue::Way::lines) {
      findings.note("standard input is not read by check");
    } else if (way == Venue::Way::poll) {
      check_poll(read.config, findings);
    } else if (find_venue(read.config.feed)->writes_posts()) {
      const std::string wrong = try_posts(read.config, feed_patience);
      if (wrong.empty())
        findings.good("events come from " + read.config.url);
      else
        findings.mistake("feed.url", read.config.url + ": " + wrong, "is the address right?");
    } else if (way == Venue::Way::topic) {
      for (const auto& finding :
           check_kafka(read.config, [&](const std::string& text) { findings.good(text); }))
        findings.mistake(finding.key, finding.what, finding.cure);
    } else {
      check_feed(read.config, findings);
      check_repair(read.config, findings);
    }
    if (end_to_end && findings.mistakes() == 0) check_pipeline(read.config, end_to_end->role, findings);
  }
  std::printf("%zu mistake%s\n", findings.mistakes(), findings.mistakes() == 1 ? "" : "s");
  return findings.mistakes() == 0 ? exit_ok : exit_failed;
}

}  // namespace tick::ingest
