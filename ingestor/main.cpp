// The command line: verbs, options, exit codes. Nothing else; every verb is a function of its own module.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include <CLI/CLI.hpp>

#include "backfill.hpp"
#include "candles.hpp"
#include "check.hpp"
#include "config.hpp"
#include "fake.hpp"
#include "init.hpp"
#include "kafka.hpp"
#include "lines.hpp"
#include "live.hpp"
#include "log.hpp"
#include "names.hpp"
#include "number.hpp"
#include "poll.hpp"
#include "posts.hpp"
#include "run.hpp"
#include "socket.hpp"
#include "status.hpp"

namespace {

using namespace tick::ingest;

// The options that mirror the table of settings, kept as text until all layers are read together.
struct SettingFlags {
  std::string config_file;
  std::vector<std::pair<std::string, std::string>> given;
  bool connects = true;

  void add(CLI::App& app, std::initializer_list<std::string_view> prefixes) {
    app.add_option("-c,--config", config_file, "TOML file (TICK_CONFIG)");
    const Config defaults = read_config({}).config;
    for (const auto& setting : settings()) {
      bool wanted = false;
      for (const auto prefix : prefixes) wanted = wanted || std::string_view(setting.key).starts_with(prefix);
      if (!wanted) continue;
      const std::string shown = setting.show(defaults);
      app.add_option_function<std::string>(
             setting.flag,
             [this, flag = setting.flag](const std::string& text) { given.emplace_back(flag, text); },
             std::string(setting.help) + " (" + setting.environment +
                 (shown.empty() ? "" : ", default " + shown) + ")")
          ->type_name("");
    }
  }

  // The merged config, or nothing after telling every mistake.
  std::optional<Config> read() {
    const auto result = read_all();
    for (const auto& mistake : result.mistakes) log::error(mistake);
    if (!result.mistakes.empty()) return std::nullopt;
    return result.config;
  }

  ConfigResult read_all() {
    ConfigSource source;
    source.environment = [](const char* name) -> std::optional<std::string> {
      const char* value = std::getenv(name);
      return value == nullptr ? std::nullopt : std::optional<std::string>(value);
    };
    source.flags = given;
    source.connects = connects;
    if (config_file.empty()) config_file = source.environment("TICK_CONFIG").value_or("");
    if (!config_file.empty()) {
      std::ifstream file(config_file);
      if (!file) {
        ConfigResult failed;
        failed.mistakes = {config_file + ": cannot be opened"};
        return failed;
      }
      source.toml.assign(std::istreambuf_iterator<char>(file), {});
      source.toml_name = config_file;
    }
    return read_config(source);
  }
};

constexpr const char* main_footer = R"(
Examples:
  tick-ingest init --database "dbname=market"
  tick-ingest run --symbols BTCUSDT,ETHUSDT --database "dbname=market"
  tick-ingest replay recording.gz --database "dbname=market"
  tick-ingest fake --symbols 200 --rate 20000 --port 9443

Settings come from defaults, then the TOML file (-c), then TICK_* variables, then flags; libpq's PG* variables
apply. Exit codes: 0 done or stopped by SIGTERM/SIGINT with everything committed, 1 failed, 2 wrong usage.)";

constexpr const char* run_footer = R"(
Examples:
  tick-ingest run --symbols BTCUSDT,ETHUSDT --stream aggTrade --database "host=/run/postgresql dbname=market"
  tick-ingest run --url ws://127.0.0.1:9443 --symbols BTCUSDT --table trades
  tick-ingest run -c tick.toml

tick.toml:
  [feed]
  symbols = ["BTCUSDT", "ETHUSDT"]
  stream = "trade"
  [database]
  conninfo = "dbname=market"
  table = "trades"
  [batch]
  rows = 10000
  age = "5ms")";

constexpr const char* replay_footer = R"(
Reads raw WebSocket recordings (both framings: "<ns> <frame>" and "<s>: <frame>"), JSON arrays and lines of trade
objects, and CSV with a header, in the layout of Binance's dumps, or as told by --columns; plain, gzip or a zip file of one.
Running it again goes on after the last committed record, so nothing is imported twice. Candles (klines) go to a
table of their own: dumps and REST answers of 12 columns, or CSV with open, high, low, close and a time.

Examples:
  tick-ingest replay spot_btcusdt.gz --database "dbname=market"
  tick-ingest replay --symbol BTCUSDT trades.csv --columns ts=event_time,price=px,qty=size
  tick-ingest import BTCUSDT-trades-2024-08-08.zip
  tick-ingest import BTCUSDT-1m-2024-08.zip --candles candles)";

constexpr const char* fake_footer = R"(
Examples:
  tick-ingest fake --symbols 200 --rate 20000 --sent sent.txt
  tick-ingest fake --symbols BTCUSDT,ETHUSDT --rate 50 --seed 7 --port 9443
  tick-ingest fake --recording day1.gz --recording day2.gz --speed max --wait

Speaks on ws://ADDRESS:PORT (and wss:// with --tls-cert) the protocols of Binance (/ws/<stream>, /stream?streams=a/b,
SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS), Coinbase Exchange and Advanced (/), Kraken v2 (/v2), OKX (/ws/v5/business),
Bybit (/v5/public/spot, /v5/public/linear), Bitstamp (/), Gemini (/v2/marketdata), Yahoo (/ and /?version=2) and
Jetstream (/subscribe), answers CoinLore's tickers (/api/tickers/), CoinGecko's prices (/api/v3/simple/price?ids=..)
and /rss (what was posted) with versions, and Binance's historicalTrades and aggTrades, Coinbase's trades, Kraken's Trades and OKX's history-trades over HTTP. BTCUSDT, BTC-USDT and BTC/USDT are one instrument.
Faults: drop mute half-open duplicate reorder gap bad-json giant close-1001 close-1006 close-1012 shutdown no-pong slow.
Each is logged when it is played, and counted in the last line; GET /fault/drop@7 asks for one that client 7 is to meet. The first line on stdout is `listening on ADDRESS:PORT`.)";

// Names what was not expected, and what may have been meant by it.
void tell_extras(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  std::vector<std::string> known;
  if (chosen.empty())
    for (const CLI::App* verb : app.get_subcommands({})) known.push_back(verb->get_name());
  else
    for (const CLI::Option* option : chosen[0]->get_options())
      for (const auto& name : option->get_lnames()) known.push_back("--" + name);
  const auto extras = app.remaining(true);
  const auto first = std::find_if(extras.begin(), extras.end(), [&](const std::string& extra) {
    return chosen.empty() || extra.starts_with("-");
  });
  const std::string given = first == extras.end() ? extras.empty() ? "" : extras[0] : *first;
  const std::string meant = nearest(given.substr(0, given.find('=')), known);
  log::error(given + " is not " + (chosen.empty() ? "a verb" : "an argument of " + chosen[0]->get_name()) +
             (meant.empty() ? "; see --help" : "; did you mean " + meant + "?"));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"tick-ingest: market data into PostgreSQL, exactly once", "tick-ingest"};
  app.footer(main_footer);
  app.require_subcommand(0, 1);
  app.set_version_flag("--version", "tick-ingest 1.0");

  SettingFlags run_flags;
  auto* run = app.add_subcommand("run", "write a live feed into the database (default verb)");
  run->footer(run_footer);
  run_flags.add(*run, {""});
  bool check_only = false;
  run->add_flag("--check", check_only, "read the configuration, show it and exit");

  SettingFlags check_flags;
  auto* check =
      app.add_subcommand("check", "try configuration, database and exchange, and name every mistake");
  check->footer(
      "\nExamples:\n  tick-ingest check -c tick.toml\n  tick-ingest check -c tick.toml --end-to-end --role "
      "dashboard");
  bool end_to_end = false;
  std::string reader;
  check->add_flag(
      "--end-to-end", end_to_end,
      "follow the ticks from feed to table, rollups, views and reader, and name the step that is empty");
  check->add_option("--role", reader, "the role of the dashboards, for --end-to-end")->needs("--end-to-end");
  check_flags.add(*check, {""});

  SettingFlags status_flags;
  std::string max_lag_text = "0";
  auto* status = app.add_subcommand("status", "what a running ingestor says of itself");
  status->footer("\nExample:\n  tick-ingest status --listen 127.0.0.1:9464 --max-lag 5s");
  status_flags.add(*status, {"metrics."});
  status->add_option("--max-lag", max_lag_text, "a longer lag makes the exit code 1; 0 = none does")
      ->capture_default_str();

  SettingFlags record_flags;
  std::string record_file;
  std::uint64_t record_limit = 0;
  auto* record = app.add_subcommand("record", "write the messages of a feed into a file");
  record->footer("\nExample:\n  tick-ingest record --symbols BTCUSDT --limit 10000 btcusdt.gz");
  record_flags.add(*record, {"feed."});
  record->add_option("file", record_file, "file, compressed when it ends in .gz")
      ->required()
      ->type_name("FILE");
  record->add_option("--limit", record_limit, "end after so many messages, 0 = when told to")
      ->capture_default_str();

  SettingFlags init_flags;
  auto* init = app.add_subcommand("init", "create extension, default table and rollups where missing");
  init->footer("\nExample:\n  tick-ingest init --database \"dbname=market\"");
  init_flags.add(*init, {"feed.name", "database."});
  init_flags.connects = false;
  bool no_rollups = false;
  bool print_only = false;
  init->add_flag("--no-rollups", no_rollups, "do not create candles_1m, candles_5m, latest_price");
  init->add_flag("--print", print_only, "print the SQL instead of running it");

  SettingFlags replay_flags;
  ReplayOptions replay_options;
  std::string replay_stream = "any";
  std::string replay_columns;
  std::string replay_speed = "max";
  auto* replay = app.add_subcommand("replay", "write recordings or CSV/NDJSON files into the database");
  replay->alias("import");
  replay->footer(replay_footer);
  replay_flags.add(*replay, {"feed.exchange", "feed.connection", "database.", "batch."});
  replay->add_option("files", replay_options.files, "files, one after another")
      ->required()
      ->type_name("FILE...");
  replay->add_option("--stream", replay_stream, "trade, aggTrade or any (the kind that comes first)")
      ->capture_default_str();
  replay->add_option("--symbol", replay_options.decode.rows.symbol, "symbol of rows that name none");
  replay->add_option("--columns", replay_columns, "which column is what: ts=event_time,price=px,qty=3");
  std::string replay_zone;
  replay->add_option("--tz", replay_zone, "UTC or an offset such as +02:00, of times that tell no zone");
  replay->add_option("--candles", replay_options.candles, "table that candles go to, made if it is missing")
      ->capture_default_str();
  std::string replay_size;
  replay->add_option("--size", replay_size,
                     "how long a candle is (1m, 4h, 1d), when neither name nor rows of a file tell");
  replay->add_option("--speed", replay_speed, "times the recorded pace, or max")->capture_default_str();

  SettingFlags backfill_flags;
  std::string backfill_from;
  std::string backfill_to;
  auto* backfill =
      app.add_subcommand("backfill", "fetch the trades of a time span from the exchange's history");
  backfill->footer(
      "\nOnly what is missing is written; stopped and started again it goes on.\n\nExample:\n  tick-ingest "
      "backfill "
      "--symbols BTCUSDT --from 2026-01-01T00:00Z --to 2026-01-02T00:00Z --database \"dbname=market\"");
  backfill_flags.add(*backfill, {"feed.", "repair.", "database.", "batch."});
  backfill
      ->add_option("--from", backfill_from, "first time, ISO 8601 (without offset: UTC) or an epoch number")
      ->required();
  backfill->add_option("--to", backfill_to, "time before which to end (default: now)");

  FakeOptions fake_options;
  std::string fake_symbol_text = "10";
  std::string fake_speed = "1";
  auto* fake =
      app.add_subcommand("fake", "a local exchange that speaks the protocols of all feeds, with faults");
  fake->footer(fake_footer);
  fake->add_option("--address", fake_options.server.address, "address to listen on")->capture_default_str();
  fake->add_option("--port", fake_options.server.port, "port, 0 = any free one")->capture_default_str();
  fake->add_option("--recording", fake_options.recordings, "file to send; may be repeated")
      ->type_name("FILE");
  fake->add_option("--speed", fake_speed, "recordings: times the recorded pace, or max")
      ->capture_default_str();
  fake->add_option("--symbols", fake_symbol_text, "walk: names, or a number (200 = SYM000USDT..SYM199USDT)")
      ->capture_default_str();
  fake->add_option("--rate", fake_options.rate, "walk: ticks per second over all symbols")
      ->capture_default_str()
      ->check(CLI::Range(0.001, 1e7));
  fake->add_option("--seed", fake_options.seed, "walk: the same seed gives the same walk")
      ->capture_default_str();
  fake->add_option("--seconds", fake_options.seconds, "walk: end after rate * seconds ticks, 0 = never")
      ->capture_default_str();
  fake->add_option("--first-id", fake_options.first_id, "walk: first trade id, 0 = from the clock")
      ->capture_default_str();
  fake->add_option(
          "--sent", fake_options.sent_file,
          "append a line `SYMBOL id receivers` per tick, `post SYMBOL id` per post, `answer DOCUMENT` per "
          "polled document")
      ->type_name("FILE");
  fake->add_option("--post-every", fake_options.post_every,
                   "a post on Jetstream about an instrument after so many trades; 0 = none")
      ->capture_default_str();
  double fake_document = 0;
  fake->add_option(
          "--document-age", fake_document,
          "seconds that the prices of a polled document stand, as behind a cache; 0 = they move at once")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  double fake_ping = 20;
  fake->add_option("--ping", fake_ping,
                   "seconds between pings, 0 = none; three unanswered ones end a connection")
      ->capture_default_str();
  fake->add_option("--tls-cert", fake_options.server.tls_certificate, "PEM file; a second port speaks TLS")
      ->type_name("FILE");
  fake->add_option("--tls-key", fake_options.server.tls_key, "PEM file, when the key is not in --tls-cert")
      ->type_name("FILE");
  fake->add_option("--tls-port", fake_options.server.tls_port, "0 = any free one")->capture_default_str();
  std::vector<std::string> fake_faults;
  std::string fake_drawn;
  fake->add_option("--fault", fake_faults, "KIND@TRADE, may be repeated; the kinds are listed below")
      ->type_name("KIND@N");
  fake->add_option("--faults", fake_drawn, "COUNT/TRADES: so many of all kinds, at random by --seed")
      ->type_name("N/M");
  fake->add_option("--history", fake_options.history, "trades kept for REST and snapshots")
      ->capture_default_str();
  fake->add_option("--busy-every", fake_options.busy_every,
                   "each so-many-th REST request is answered with 429")
      ->capture_default_str();
  fake->add_flag("--wait", fake_options.wait, "start with the first subscriber");
  fake->add_flag("--exit", fake_options.exit, "end when everything was sent");

  // `run` is the default verb: its options may follow the program's name directly.
  std::vector<std::string> arguments(argv + 1, argv + argc);
  if (!arguments.empty() && arguments[0].starts_with("-") && arguments[0] != "--help" &&
      arguments[0] != "-h" && arguments[0] != "--version")
    arguments.insert(arguments.begin(), "run");
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    if (dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr)
      return app.exit(error) == 0 ? exit_ok : exit_usage;
    tell_extras(app);
    return exit_usage;
  }
  block_signals();

  const auto read_speed = [](const std::string& text) -> std::optional<double> {
    if (text == "max") return 0.0;
    const auto value = parse_decimal(text);
    return value && *value > 0 ? value : std::nullopt;
  };

  if (*fake) {
    const auto speed = read_speed(fake_speed);
    fake_options.document_age = std::chrono::milliseconds(std::llround(fake_document * 1000));
    fake_options.server.ping_every = std::chrono::milliseconds(std::llround(fake_ping * 1000));
    for (const auto& text : fake_faults)
      if (!fake_options.faults.add(text)) {
        log::error("--fault " + text + " is not KIND@TRADE; see --help");
        return exit_usage;
      }
    if (!fake_drawn.empty()) {
      const auto slash = fake_drawn.find('/');
      const auto count = parse_integer(fake_drawn.substr(0, slash));
      const auto span =
          slash == std::string::npos ? std::nullopt : parse_integer(fake_drawn.substr(slash + 1));
      if (!count || !span || *count < 0 || *span < 1) {
        log::error("--faults " + fake_drawn + " is not COUNT/TRADES");
        return exit_usage;
      }
      fake_options.faults.draw(static_cast<std::size_t>(*count), static_cast<std::uint64_t>(*span),
                               fake_options.seed);
    }
    fake_options.symbols = fake_symbols(fake_symbol_text);
    if (!speed || fake_options.symbols.empty()) {
      log::error(!speed ? "--speed must be a positive number or max" : "--symbols names no symbol");
      return exit_usage;
    }
    fake_options.speed = *speed;
    return run_fake(fake_options);
  }
  if (*check)
    return run_check(check_flags.read_all(),
                     end_to_end ? std::make_optional(EndToEnd{reader}) : std::nullopt);
  if (*status) {
    const auto config = status_flags.read();
    const auto max_lag = parse_duration(max_lag_text);
    if (!max_lag) log::error("--max-lag must be a time such as \"5s\"");
    return config && max_lag ? run_status(*config, *max_lag) : exit_usage;
  }
  // What needs a WebSocket.
  const auto has_socket = [](const std::optional<Config>& config) {
    const bool has = config && find_venue(config->feed)->make != nullptr;
    if (config && !has) log::error("not for feed " + config->feed);
    return has;
  };
  if (*record) {
    const auto config = record_flags.read();
    if (!has_socket(config)) return exit_usage;
    return config ? run_record(*config, record_file, record_limit) : exit_usage;
  }
  if (*backfill) {
    const auto config = backfill_flags.read();
    if (!has_socket(config)) return exit_usage;
    const auto from = parse_time(backfill_from);
    const auto now = std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now());
    const auto to = backfill_to.empty() ? std::optional(now) : parse_time(backfill_to);
    if (!from || !to || *from >= *to)
      log::error("--from and --to must be times such as 2026-01-01T00:00Z, the first before the second");
    if (config && config->symbols.empty())
      log::error("no symbols: give --symbols, TICK_SYMBOLS or feed.symbols");
    if (!config || config->symbols.empty() || !from || !to || *from >= *to) return exit_usage;
    return run_backfill(*config, *from, *to);
  }
  if (*init) {
    const auto config = init_flags.read();
    if (!config) return exit_usage;
    const Venue& venue = *find_venue(config->feed);
    const InitOptions options{config->database,         config->table, config->table_columns,
                              config->partitions_ahead, !no_rollups,   venue.sequence,
                              venue.writes_posts()};
    if (print_only) {
      std::fputs(init_script(options).c_str(), stdout);
      return exit_ok;
    }
    return run_init(options);
  }
  if (*replay) {
    const auto config = replay_flags.read();
    if (!config) return exit_usage;
    const auto speed = read_speed(replay_speed);
    std::string mistake;
    const auto columns = parse_columns(replay_columns, mistake);
    if (!speed) mistake = "--speed must be a positive number or max";
    if (speed && !columns) mistake = "--columns " + mistake;
    if (!replay_zone.empty()) {
      replay_options.decode.rows.offset = parse_offset(replay_zone);
      if (!replay_options.decode.rows.offset) mistake = "--tz must be UTC or an offset such as +02:00";
    }
    if (!replay_size.empty()) {
      replay_options.candle_size = candle_size(replay_size);
      if (replay_options.candle_size.empty()) mistake = "--size must be like 30s, 1m, 4h, 1d, 1w or 1mo";
    }
    if (replay_stream == "trade")
      replay_options.decode.stream = Stream::trade;
    else if (replay_stream == "aggTrade")
      replay_options.decode.stream = Stream::agg_trade;
    else if (replay_stream != "any")
      mistake = "--stream must be trade, aggTrade or any, not \"" + replay_stream + "\"";
    if (!mistake.empty()) {
      log::error(mistake);
      return exit_usage;
    }
    replay_options.speed = *speed;
    replay_options.decode.rows.columns = *columns;
    return run_replay(*config, replay_options);
  }
  if (!*run && argc > 1) {
    std::fputs(app.help().c_str(), stderr);
    return exit_usage;
  }
  auto config = run_flags.read();
  const auto way = config ? find_venue(config->feed)->way : Venue::Way::socket;
  const bool named_by_path =
      config && find_venue(config->feed)->make == make_binance_feed && parse_url(config->url)->target != "/";
  if (config && config->symbols.empty() && way == Venue::Way::socket && !named_by_path && !check_only) {
    log::error("no symbols: give --symbols, TICK_SYMBOLS or feed.symbols");
    config.reset();
  }
  if (!config) {
    if (!*run) std::fputs(app.help().c_str(), stderr);
    return exit_usage;
  }
  if (check_only) {
    for (const auto& setting : settings())
      std::printf("%s = %s\n", setting.key, setting.show(*config).c_str());
    return exit_ok;
  }
  if (way == Venue::Way::topic) return run_kafka(*config);
  if (way == Venue::Way::poll) return run_poll(*config);
  if (way == Venue::Way::lines) return run_lines(*config);
  if (find_venue(config->feed)->writes_posts()) return run_posts(*config, [&] { return run_flags.read(); });
  return run_live(*config, [&] { return run_flags.read(); });
}
