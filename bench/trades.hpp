// The table of trades that the benchmarks fill, its rollups, and how they are compared: with tick.verify, and
// the one-minute candles with built-ins as well.
#pragma once

#include <optional>

#include "client.hpp"

namespace tick::bench {

struct RollupSpec {
  const char* name;
  const char* window;  // nullptr: one row per key
};
inline constexpr RollupSpec rollups[] = {
    {"candles_1m", "1 minute"},    {"candles_5m", "5 minutes"}, {"latest_price", nullptr},
    {"candles_15m", "15 minutes"}, {"candles_1h", "1 hour"},    {"candles_10s", "10 seconds"},
    {"candles_30s", "30 seconds"}, {"candles_4h", "4 hours"},
};

inline long setting(const char* name, long otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::atol(text);
}

inline std::string query(const RollupSpec& rollup, const std::string& table) {
  if (rollup.window == nullptr)
    return "SELECT exchange, symbol, tick.last(price, ts, trade_id) AS price, tick.last(qty, ts, trade_id) "
           "AS qty,"
           " max(ts) AS last_ts, count(*) AS trades FROM " +
           table + " GROUP BY exchange, symbol";
  return "SELECT exchange, symbol, tick.tumble(ts, '" + std::string(rollup.window) +
         "') AS ts, tick.first(price, ts, trade_id) AS open, max(price) AS high, min(price) AS low,"
         " tick.last(price, ts, trade_id) AS close, sum(qty) AS volume, count(*) AS trades,"
         " sum(price * qty) / nullif(sum(qty), 0) AS vwap, max(trade_id) AS last_id FROM " +
         table + " GROUP BY 1, 2, 3";
}

class Trades {
 public:
  explicit Trades(std::string conninfo) : conninfo_(std::move(conninfo)), db_(conninfo_) {}
  bool exact() const { return exact_; }

 protected:
  // Partitioned: by day, around the day of the SQL expression `start`.
  void create_table(const std::string& start, bool partitioned);
  void create_rollups(int count);
  void wait();
  void drop(int count);
  void verify(int count);
  int worker_pid();

  std::string conninfo_;
  Connection db_;

 private:
  bool exact_ = true;
};

// The last id that the newest candle of one symbol shows.
class LastId {
 public:
  explicit LastId(Connection& reader) : reader_(reader) {
    PQclear(reader.checked(PQprepare(reader.raw(), "poll",
                                     "SELECT last_id FROM candles_1m WHERE exchange = 'binance'"
                                     " AND symbol = 'SYM000USDT' ORDER BY ts DESC LIMIT 1",
                                     0, nullptr),
                           "prepare"));
  }
  // Nothing: there is no candle yet.
  std::optional<int64_t> read() {
    PGresult* result =
        reader_.checked(PQexecPrepared(reader_.raw(), "poll", 0, nullptr, nullptr, nullptr, 1), "poll");
    std::optional<int64_t> id;
    if (PQntuples(result) == 1 && !PQgetisnull(result, 0, 0)) {
      uint64_t bytes;
      std::memcpy(&bytes, PQgetvalue(result, 0, 0), sizeof bytes);
      id = static_cast<int64_t>(__builtin_bswap64(bytes));
    }
    PQclear(result);
    return id;
  }

 private:
  Connection& reader_;
};

inline int Trades::worker_pid() {
  return std::atoi(db_.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_tick worker'"
                             " AND datname = current_database()")
                       .c_str());
}

inline void Trades::create_table(const std::string& start, bool partitioned) {
  if (!partitioned) {
    db_.run(std::string("CREATE TABLE trades (") + trade_columns + ") WITH (autovacuum_enabled = off)");
    return;
  }
  db_.run(std::string("CREATE TABLE trades (") + trade_columns + ") PARTITION BY RANGE (ts)");
  for (int day = -2; day <= 2; ++day) {
    const auto edge = [&](int d) {
      return "date_trunc('day', " + start + ") + '" + std::to_string(d) + " days'";
    };
    const std::string from = db_.value("SELECT " + edge(day)), to = db_.value("SELECT " + edge(day + 1));
    db_.run("CREATE TABLE trades_" + std::to_string(day + 2) + " PARTITION OF trades FOR VALUES FROM ('" +
            from + "') TO ('" + to + "') WITH (autovacuum_enabled = off)");
  }
}

inline void Trades::create_rollups(int count) {
  for (int i = 0; i < count; ++i)
    db_.run(std::string("SELECT tick.create_rollup('") + rollups[i].name + "', $$" +
            query(rollups[i], "trades") + "$$)");
}

inline void Trades::wait() {
  if (db_.value("SELECT tick.wait(NULL, '300 s')") == "t") return;
  std::fprintf(stderr, "bench: the worker did not catch up in 300 s\n");
  std::exit(1);
}

inline void Trades::drop(int count) {
  for (int i = 0; i < count; ++i) db_.run(std::string("SELECT tick.drop_rollup('") + rollups[i].name + "')");
  db_.run("DROP TABLE trades");
}

// Every rollup against tick.verify, the one-minute candles against built-ins as well.
inline void Trades::verify(int count) {
  const bool available = db_.value("SELECT to_regproc('tick.verify')") != "";
  for (int i = 0; i < count; ++i) {
    if (!available) continue;
    const std::string wrong =
        db_.value(std::string("SELECT count(*) FROM tick.verify('") + rollups[i].name + "')");
    if (wrong == "0") continue;
    std::printf("NOT EXACT: %s differs from its query in %s places\n", rollups[i].name, wrong.c_str());
    exact_ = false;
  }
  if (count == 0) return;
  const std::string wrong = db_.value(
      "WITH expected AS (SELECT exchange, symbol, date_bin('1 minute', ts, '2000-01-01 00:00:00+00') AS ts,"
      " (array_agg(price ORDER BY ts, trade_id))[1] AS open, max(price) AS high, min(price) AS low,"
      " (array_agg(price ORDER BY ts DESC, trade_id DESC))[1] AS close, count(*) AS trades, "
      "sum(qty::numeric) AS volume,"
      " max(trade_id) AS last_id FROM trades GROUP BY 1, 2, 3)"
      " SELECT count(*) FROM expected e FULL JOIN candles_1m c USING (exchange, symbol, ts)"
      " WHERE (e.open, e.high, e.low, e.close, e.trades, e.last_id)"
      " IS DISTINCT FROM (c.open, c.high, c.low, c.close, c.trades, c.last_id)"
      " OR abs(e.volume::float8 - c.volume) > 1e-9 * e.volume::float8");
  if (wrong == "0") return;
  std::printf("NOT EXACT: candles_1m differs from built-ins in %s candles\n", wrong.c_str());
  exact_ = false;
}

}  // namespace tick::bench
