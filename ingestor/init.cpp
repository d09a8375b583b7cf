// `tick-ingest init`; see init.hpp. The raw table has no btree on purpose: it would cost more than everything
// else.
#include "init.hpp"

#include <chrono>

#include "database.hpp"
#include "log.hpp"
#include "number.hpp"
#include "partitions.hpp"
#include "run.hpp"

namespace tick::ingest {

namespace {

constexpr std::string_view table_columns = R"( (
  exchange       text        NOT NULL,
  symbol         text        NOT NULL,
  ts             timestamptz NOT NULL,
  price          float8      NOT NULL,
  qty            float8,
  trade_id       int8,
  is_buyer_maker bool,
  received_at    timestamptz
) PARTITION BY RANGE (ts))";

// Not partitioned: a post is there once whatever time the server that sends it has given it.
constexpr std::string_view posts_columns = R"( (
  feed      text        NOT NULL,
  symbol    text        NOT NULL,
  ts        timestamptz NOT NULL,
  id        text        NOT NULL,
  author    text,
  text      text,
  sentiment float8
))";

struct Rollup {
  const char* name;
  const char* window;  // nullptr: one row per key
};
constexpr Rollup rollups[] = {
    {"candles_1m", "1 minute"},
    {"candles_5m", "5 minutes"},
    {"latest_price", nullptr},
};

std::string rollup_query(const Rollup& rollup, const std::string& table) {
  if (rollup.window == nullptr)
    return "SELECT exchange, symbol,\n"
           "       tick.last(price, ts, trade_id) AS price, tick.last(qty, ts, trade_id) AS qty,\n"
           "       max(ts) AS last_ts, count(*) AS trades\n"
           "FROM " +
           table + " GROUP BY exchange, symbol";
  return "SELECT exchange, symbol, tick.tumble(ts, '" + std::string(rollup.window) +
         "') AS ts,\n"
         "       tick.first(price, ts, trade_id) AS open, max(price) AS high, min(price) AS low,\n"
         "       tick.last(price, ts, trade_id) AS close, sum(qty) AS volume, count(*) AS trades,\n"
         "       sum(price * qty) / nullif(sum(qty), 0) AS vwap\n"
         "FROM " +
         table + " GROUP BY 1, 2, 3";
}

std::string create_rollup(const Rollup& rollup, const std::string& table) {
  return std::string("SELECT tick.create_rollup('") + rollup.name + "', $query$\n" +
         rollup_query(rollup, table) + "\n$query$)";
}

// Ids of one exchange and symbol ascend by one, so the source can tell what is there twice and what is
// missing.
std::string declare_ids(const std::string& table) {
  return "SELECT tick.add_source('" + table +
         "', dedup_key => '{exchange,symbol}', dedup_id => 'trade_id', dedup_group => 'exchange')";
}

// Ids with gaps, hashes, or none: what comes twice is the same in all of this.
std::string once_index(const std::string& table) {
  return "CREATE UNIQUE INDEX ON " + table + " (symbol, ts, trade_id, price, exchange) NULLS NOT DISTINCT";
}

std::string posts_index(const std::string& table) {
  return "CREATE UNIQUE INDEX ON " + table + " (feed, id, symbol); CREATE INDEX ON " + table +
         " (ts, id) WHERE sentiment IS NULL";
}

std::string posts_rollup(const std::string& table) {
  return "SELECT tick.create_rollup('posts_1m', $query$\n"
         "SELECT symbol, tick.tumble(ts, '1 minute') AS ts,\n"
         "       count(*) AS posts, avg(sentiment) AS sentiment\n"
         "FROM " +
         table + " GROUP BY 1, 2\n$query$)";
}

std::string keep_out_duplicates(const InitOptions& options) {
  return options.sequence ? declare_ids(options.table) : once_index(options.table);
}

bool exists(Database& database, const std::string& name) {
  const std::string parameters[] = {name};
  return database.query("SELECT to_regclass($1)", parameters).at(0).at(0).has_value();
}

void step(Database& database, const std::string& name, bool there, const std::string& sql) {
  if (there) {
    log::info(name + " exists already");
    return;
  }
  database.run(sql);
  log::info(name + " created");
}

}  // namespace

std::string init_script(const InitOptions& options) {
  if (options.posts)
    return "CREATE EXTENSION IF NOT EXISTS pg_tick;\n\nCREATE TABLE " + options.table +
           std::string(posts_columns) + ";\n" + posts_index(options.table) + ";\n" +
           (options.rollups ? "\n" + posts_rollup(options.table) + ";\n" : "");
  std::string text = "CREATE EXTENSION IF NOT EXISTS pg_tick;\n\nCREATE TABLE " + options.table +
                     std::string(table_columns) + ";\nCREATE TABLE " + options.table +
                     "_default PARTITION OF " + options.table + " DEFAULT;\n" + keep_out_duplicates(options) +
                     ";\n";
  if (options.rollups)
    for (const auto& rollup : rollups) text += "\n" + create_rollup(rollup, options.table) + ";\n";
  return text;
}

int run_init(const InitOptions& options) {
  try {
    Database database(options.database);
    database.run("SET client_min_messages = warning; SELECT pg_catalog.pg_advisory_lock(7715, 1)");
    const auto extension = database.query("SELECT 1 FROM pg_catalog.pg_extension WHERE extname = 'pg_tick'");
    const auto schema = database.query(
        "SELECT 1 FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n"
        " ON n.oid = p.pronamespace WHERE n.nspname = 'tick' AND p.proname = 'feed'");
    step(database, "extension pg_tick", !extension.empty() || !schema.empty(),
         "CREATE EXTENSION IF NOT EXISTS pg_tick");

    if (!options.columns.empty()) {
      TableColumns columns;
      columns.open(database, options.table, options.columns);
      log::info("table " + columns.table() + " takes ticks; its rollups are its owner's to make");
      return exit_ok;
    }
    const bool table_there = exists(database, options.table);
    if (options.posts) {
      step(database, "table " + options.table, table_there,
           "BEGIN; CREATE TABLE " + options.table + std::string(posts_columns) + "; COMMENT ON TABLE " +
               options.table + " IS 'one row per post and symbol, written by tick-ingest'; " +
               posts_index(options.table) + "; COMMIT");
      if (options.rollups)
        step(database, "rollup posts_1m", exists(database, "posts_1m"), posts_rollup(options.table));
      return exit_ok;
    }
    step(database, "table " + options.table, table_there,
         "BEGIN; CREATE TABLE " + options.table + std::string(table_columns) + "; CREATE TABLE " +
             options.table + "_default PARTITION OF " + options.table + " DEFAULT; COMMENT ON TABLE " +
             options.table + " IS 'one row per trade, written by tick-ingest'; " +
             keep_out_duplicates(options) + "; COMMIT");
    if (!options.sequence && table_there) {
      const std::string parameters[] = {options.table};
      step(database, "unique index of table " + options.table,
           !database
                .query("SELECT FROM pg_catalog.pg_index WHERE indrelid = $1::regclass AND indisunique",
                       parameters)
                .empty(),
           once_index(options.table));
    }
    DayPartitions partitions;
    partitions.open(database, options.table, "ts");
    const std::int64_t today =
        day_of(std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now()));
    for (std::size_t day = 0; day <= options.days_ahead; ++day)
      partitions.ensure(database, today + static_cast<std::int64_t>(day));

    if (options.rollups)
      for (const auto& rollup : rollups)
        step(database, std::string("rollup ") + rollup.name, exists(database, rollup.name),
             create_rollup(rollup, options.table));
    return exit_ok;
  } catch (const FatalError& error) {
    log::error(std::string("init: ") + error.what());
    return exit_failed;
  } catch (const DatabaseError& error) {
    log::error(std::string("init: ") + error.what());
    return exit_failed;
  }
}

}  // namespace tick::ingest
