// The command line: verbs, options, exit codes. Nothing else; every verb is a function of its own module.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include <CLI/CLI.hpp>

#include "config.hpp"
#include "fake.hpp"
#include "init.hpp"
#include "log.hpp"
#include "number.hpp"
#include "run.hpp"
#include "socket.hpp"

namespace {

using namespace tick::ingest;

// The options that mirror the table of settings, kept as text until all layers are read together.
struct SettingFlags {
  std::string config_file;
  std::vector<std::pair<std::string, std::string>> given;

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
    ConfigSource source;
    source.environment = [](const char* name) -> std::optional<std::string> {
      const char* value = std::getenv(name);
      return value == nullptr ? std::nullopt : std::optional<std::string>(value);
    };
    source.flags = given;
    if (config_file.empty()) config_file = source.environment("TICK_CONFIG").value_or("");
    if (!config_file.empty()) {
      std::ifstream file(config_file);
      if (!file) {
        log::error(config_file + ": cannot be opened");
        return std::nullopt;
      }
      source.toml.assign(std::istreambuf_iterator<char>(file), {});
      source.toml_name = config_file;
    }
    const ConfigResult result = read_config(source);
    for (const auto& mistake : result.mistakes) log::error(mistake);
    if (!result.mistakes.empty()) return std::nullopt;
    return result.config;
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
  age = "10ms")";

constexpr const char* replay_footer = R"(
Reads raw WebSocket recordings (both framings: "<ns> <frame>" and "<s>: <frame>"), JSON arrays and lines of trade
objects, and CSV with a header, in the layout of Binance's dumps, or as told by --columns; plain or gzip.
Running it again goes on after the last committed record, so nothing is imported twice.

Examples:
  tick-ingest replay spot_btcusdt.gz --database "dbname=market"
  tick-ingest replay --symbol BTCUSDT trades.csv --columns ts=event_time,price=px,qty=size
  tick-ingest replay BTCUSDT-trades-2024-08-08.csv)";

constexpr const char* fake_footer = R"(
Examples:
  tick-ingest fake --symbols 200 --rate 20000 --sent sent.txt
  tick-ingest fake --symbols BTCUSDT,ETHUSDT --rate 50 --seed 7 --port 9443
  tick-ingest fake --recording day1.gz --recording day2.gz --speed max --wait

Speaks Binance's protocol on ws://ADDRESS:PORT: /ws/<stream>, /stream?streams=a/b, SUBSCRIBE, UNSUBSCRIBE,
LIST_SUBSCRIPTIONS, pings. The first line on stdout is `listening on ADDRESS:PORT`.)";

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"tick-ingest: market data into PostgreSQL, exactly once", "tick-ingest"};
  app.footer(main_footer);
  app.require_subcommand(0, 1);
  app.set_version_flag("--version", "tick-ingest 1.0");

  SettingFlags run_flags;
  auto* run = app.add_subcommand("run", "write a live feed into the database (default verb)");
  run->footer(run_footer);
  run_flags.add(*run, {"feed.", "database.", "batch."});
  bool check_only = false;
  run->add_flag("--check", check_only, "read the configuration, show it and exit");

  SettingFlags init_flags;
  auto* init = app.add_subcommand("init", "create extension, default table and rollups where missing");
  init->footer("\nExample:\n  tick-ingest init --database \"dbname=market\"");
  init_flags.add(*init, {"database."});
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
  replay->footer(replay_footer);
  replay_flags.add(*replay, {"feed.exchange", "feed.connection", "database.", "batch."});
  replay->add_option("files", replay_options.files, "files, one after another")
      ->required()
      ->type_name("FILE...");
  replay->add_option("--stream", replay_stream, "trade, aggTrade or any (the kind that comes first)")
      ->capture_default_str();
  replay->add_option("--symbol", replay_options.decode.rows.symbol, "symbol of rows that name none");
  replay->add_option("--columns", replay_columns, "which column is what: ts=event_time,price=px,qty=3");
  replay->add_option("--speed", replay_speed, "times the recorded pace, or max")->capture_default_str();

  FakeOptions fake_options;
  std::string fake_symbol_text = "10";
  std::string fake_speed = "1";
  auto* fake = app.add_subcommand("fake", "a local exchange that speaks Binance's WebSocket protocol");
  fake->footer(fake_footer);
  fake->add_option("--address", fake_options.address, "address to listen on")->capture_default_str();
  fake->add_option("--port", fake_options.port, "port, 0 = any free one")->capture_default_str();
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
  fake->add_option("--sent", fake_options.sent_file, "append a line `SYMBOL id receivers` per tick")
      ->type_name("FILE");
  fake->add_option("--ping", fake_options.ping_seconds, "seconds between pings, 0 = none")
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
    return app.exit(error) == 0 ? exit_ok : exit_usage;
  }
  block_signals();

  const auto read_speed = [](const std::string& text) -> std::optional<double> {
    if (text == "max") return 0.0;
    const auto value = parse_decimal(text);
    return value && *value > 0 ? value : std::nullopt;
  };

  if (*fake) {
    const auto speed = read_speed(fake_speed);
    fake_options.symbols = fake_symbols(fake_symbol_text);
    if (!speed || fake_options.symbols.empty()) {
      log::error(!speed ? "--speed must be a positive number or max" : "--symbols names no symbol");
      return exit_usage;
    }
    fake_options.speed = *speed;
    return run_fake(fake_options);
  }
  if (*init) {
    const auto config = init_flags.read();
    if (!config) return exit_usage;
    const InitOptions options{config->database, config->table, config->partitions_ahead, !no_rollups};
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
  const bool named_by_path = config && parse_url(config->url)->target != "/";
  if (config && config->symbols.empty() && !named_by_path && !check_only) {
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
  return run_live(*config);
}
