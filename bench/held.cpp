// What a forgotten transaction costs: an idle session with a transaction id is left open for MINUTES (default
// 10) while a feed of 5,000 ticks/s runs. Usage: held CONNINFO. Promise: prints, minute by minute, how old
// the view was, how long turns took, how many deltas waited to be read, how large queue and state tables
// were; compares the last minute with the first, waits for things to be normal again after the transaction
// has ended, and fails if a rollup is not exact.
#include <sys/prctl.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <utility>

#include "client.hpp"

using namespace tick::bench;

namespace {

constexpr int rows_a_commit = 100;
constexpr double period = 0.02;

const char* const state_tables[] = {"candles_1m_state", "candles_5m_state", "latest_price_state"};

void prepare(Connection& db) {
  db.run("CREATE EXTENSION IF NOT EXISTS pg_tick");
  db.run(std::string("CREATE TABLE trades (") + trade_columns + ") PARTITION BY RANGE (ts)");
  for (int day = -1; day <= 1; ++day) {
    const auto edge = [&](int d) {
      return db.value("SELECT date_trunc('day', now()) + '" + std::to_string(d) + " days'");
    };
    db.run("CREATE TABLE trades_" + std::to_string(day + 1) + " PARTITION OF trades FOR VALUES FROM ('" +
           edge(day) + "') TO ('" + edge(day + 1) + "')");
  }
  for (const char* size : {"1", "5"})
    db.run(std::string("SELECT tick.create_rollup('candles_") + size +
           "m', $$SELECT exchange, symbol, tick.tumble(ts, '" + size +
           " minutes') AS ts, tick.first(price, ts, trade_id) AS open, max(price) AS high, min(price) AS low,"
           " tick.last(price, ts, trade_id) AS close, sum(qty) AS volume, count(*) AS trades,"
           " max(trade_id) AS last_id FROM trades GROUP BY 1, 2, 3$$)");
  db.run(
      "SELECT tick.create_rollup('latest_price', $$SELECT exchange, symbol, tick.last(price, ts, trade_id) "
      "AS price,"
      " max(trade_id) AS last_id FROM trades GROUP BY 1, 2$$)");
  db.run("SELECT tick.wait(NULL, '60 s')");
}

// The feed keeps its schedule; the reader looks every 5 ms which commit it can see.
class Feed {
 public:
  explicit Feed(const std::string& conninfo)
      : conninfo_(conninfo),
        start_(now() + 0.1),
        writing_([this] { write(); }),
        reading_([this] { read(); }) {}
  ~Feed() {
    over_ = true;
    writing_.join();
    reading_.join();
  }
  // Ages of the view in ms since the last call.
  std::vector<double> ages() {
    const std::lock_guard lock(mutex_);
    return std::exchange(ages_, {});
  }

 private:
  double due(long commit) const { return start_ + static_cast<double>(commit) * period; }

  void write() {
    Connection writer(conninfo_);
    Walk walk(3);
    std::string batch;
    int64_t id = 0;
    for (long commit = 0; !over_; ++commit) {
      sleep_until(due(commit));
      const int64_t ts = wall_micros();
      begin_copy(batch);
      for (int i = 1; i < rows_a_commit; ++i) put_trade(batch, walk.next(ts, ++id));
      put_trade(batch, walk.of(0, ts, ++id));
      end_copy(batch);
      writer.copy("COPY trades FROM STDIN (FORMAT binary)", batch);
      committed_ = commit + 1;
    }
  }

  void read() {
    Connection reader(conninfo_);
    PQclear(
        reader.checked(PQprepare(reader.raw(), "poll",
                                 "SELECT last_id FROM latest_price WHERE symbol = 'SYM000USDT'", 0, nullptr),
                       "prepare"));
    for (double at = start_ + 1; !over_; at = std::max(at + 0.005, now())) {
      sleep_until(at);
      // Asked before the read: what had been committed then and is not seen now is as old as its commit is
      // due.
      const long committed = committed_;
      PGresult* result =
          reader.checked(PQexecPrepared(reader.raw(), "poll", 0, nullptr, nullptr, nullptr, 0), "poll");
      const double seen = now();
      const long there = PQntuples(result) == 1 ? std::atol(PQgetvalue(result, 0, 0)) / rows_a_commit : 0;
      PQclear(result);
      const double age = there >= committed ? 0 : (seen - due(there)) * 1e3;
      const std::lock_guard lock(mutex_);
      ages_.push_back(age);
    }
  }

  const std::string conninfo_;
  const double start_;
  std::atomic<bool> over_ = false;
  std::atomic<long> committed_ = 0;
  std::mutex mutex_;
  std::vector<double> ages_;
  std::thread writing_, reading_;
};

struct Minute {
  double age99 = 0, age = 0, turn = 0, turn99 = 0, turns = 0, unread = 0, queue = 0, state = 0;
};

double number(Connection& db, const std::string& query) {
  return std::atof(db.value(query).c_str());
}

// Deltas behind the frontier; those that were running when it was taken are not counted.
const char* const unread =
    "SELECT count(*) FROM tick_catalog.frontier AS f CROSS JOIN LATERAL ("
    "SELECT FROM tick_catalog.queue_0 WHERE xid >= pg_snapshot_xmax(f.snapshot) UNION ALL "
    "SELECT FROM tick_catalog.queue_1 WHERE xid >= pg_snapshot_xmax(f.snapshot) UNION ALL "
    "SELECT FROM tick_catalog.queue_2 WHERE xid >= pg_snapshot_xmax(f.snapshot)) AS q";

Minute measure(Connection& db, Feed& feed, int worker, double seconds) {
  Minute minute;
  (void)feed.ages();
  const Usage before = usage(worker);
  const double turns = number(db, "SELECT turns FROM tick_catalog.worker_counters()");
  for (const double end = now() + seconds; now() < end;) {
    sleep_until(std::min(end, now() + 0.5));
    minute.unread = std::max(minute.unread, number(db, unread));
    minute.queue = std::max(minute.queue, number(db,
                                                 "SELECT pg_total_relation_size('tick_catalog.queue_0')"
                                                 " + pg_total_relation_size('tick_catalog.queue_1')"
                                                 " + pg_total_relation_size('tick_catalog.queue_2')"));
  }
  std::vector<double> ages = feed.ages();
  minute.age = quantile(ages, 0.5);
  minute.age99 = quantile(ages, 0.99);
  minute.turns = number(db, "SELECT turns FROM tick_catalog.worker_counters()") - turns;
  minute.turn99 =
      number(db,
             "SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) FROM tick.turns WHERE started > "
             "clock_timestamp() - interval '" +
                 std::to_string(seconds) + " s'");
  minute.turn = minute.turns > 0 ? (usage(worker) - before).ran * 1e3 / minute.turns : 0;
  for (const char* table : state_tables)
    minute.state += number(db, std::string("SELECT pg_relation_size('") + table + "')");
  return minute;
}

void print(const char* name, const Minute& minute) {
  std::printf("%-18s %10.1f %10.1f %10.2f %10.2f %8.0f %8.0f %10.1f %10.1f\n", name, minute.age, minute.age99,
              minute.turn, minute.turn99, minute.turns, minute.unread, minute.queue / 1e6,
              minute.state / 1e6);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: held CONNINFO\n");
    return 2;
  }
  prctl(PR_SET_TIMERSLACK, 1);
  const char* text = std::getenv("MINUTES");
  const int minutes = text == nullptr || *text == '\0' ? 10 : std::max(1, std::atoi(text));
  Connection db(argv[1]);
  prepare(db);
  const int worker =
      std::atoi(db.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_tick worker'").c_str());
  {
    Feed feed(argv[1]);
    std::printf("\nA transaction left open for %d minutes, 5,000 ticks/s, 3 rollups\n", minutes);
    std::printf("%-18s %10s %10s %10s %10s %8s %8s %10s %10s\n", "", "age50 ms", "age99 ms", "CPU/turn",
                "turn99 ms", "turns", "unread", "queue MB", "state MB");
    print("before", measure(db, feed, worker, 15));
    double held = 0;
    {
      Connection idle(argv[1]);
      idle.run("BEGIN; CREATE TEMP TABLE forgotten (i int)");
      const double since = now();
      Minute first, last;
      for (int minute = 1; minute <= minutes; ++minute) {
        last = measure(db, feed, worker, 60);
        if (minute == 1) first = last;
        char name[32];
        std::snprintf(name, sizeof name, "minute %d", minute);
        print(name, last);
      }
      held = now() - since;
      std::printf(
          "last minute / first: CPU a turn %.2f, p99 of turns %.2f, state tables %.2f; age99 %.0f ms, "
          "allowed %.0f ms; unread at most %.0f deltas, one interval brings %.0f\n",
          last.turn / first.turn, last.turn99 / first.turn99, last.state / first.state, last.age99,
          (held / 200 + 0.2) * 1e3, last.unread, held / 200 / period);
      idle.run("ROLLBACK");
    }
    const double ended = now();
    for (int i = 0; i < 4; ++i) {
      const Minute after = measure(db, feed, worker, 5);
      char name[32];
      std::snprintf(name, sizeof name, "%.0f s after", now() - ended);
      print(name, after);
    }
  }
  if (db.value("SELECT tick.wait(NULL, '60 s')") != "t") std::printf("the worker did not catch up\n");
  bool exact = true;
  for (const char* rollup : {"candles_1m", "candles_5m", "latest_price"})
    exact = exact && db.value(std::string("SELECT count(*) FROM tick.verify('") + rollup + "')") == "0";
  std::printf("\nrollups exact: %s\n", exact ? "yes" : "no");
  return exact ? 0 : 1;
}
