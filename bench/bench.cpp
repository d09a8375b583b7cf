// The benchmarks of `make bench`: COPY with and without capture, commit-to-visible latency in an open loop,
// recompute, creation of a rollup over a long history under a live feed. Usage: bench CONNINFO
// [NOTHING_LIBRARY]; BENCH, ROWS, ROUNDS, DURATION, HISTORY and HOLD in the environment select. Promise: what
// is compared is measured in turns in one run, ratios are taken within a round and the median is shown; at
// the end of each part every rollup is compared with its query, and the program fails if one is not exact.
#include <signal.h>
#include <sys/prctl.h>

#include <atomic>
#include <cmath>
#include <thread>

#include "trades.hpp"

namespace tick::bench {
namespace {

constexpr int transaction_rows = 10000;

class Bench : public Trades {
 public:
  Bench(std::string conninfo, std::string nothing)
      : Trades(std::move(conninfo)), nothing_(std::move(nothing)) {}

  void prepare();
  void copy();
  void latency();
  void recompute();
  void creation();

 private:
  struct Variant {
    const char* name;
    int rollups;
    bool partitioned;
    const char* extra;  // one more statement about the table
    size_t base;        // the variant it is compared with
    bool ingest;        // by tick.ingest, else by COPY
    bool unsynced;      // synchronous_commit off
    std::vector<double> rate, ratio, cpu, cpu_ratio, waited, merged;
  };
  struct Load {
    const char* name;
    int rows;              // per commit
    double period;         // seconds between commits
    int stride;            // every how many commits carry a sentinel
    bool medians = false;  // beside a rollup that is recomputed
  };

  void measure(Variant& variant, const std::vector<std::string>& copies,
               const std::vector<std::string>& columns, bool last);
  void measure(const Load& load);

  std::string nothing_;
};

// A small rollup of another table keeps the worker alive between the measurements.
void Bench::prepare() {
  db_.run("CREATE EXTENSION IF NOT EXISTS pg_tick");
  db_.run("CREATE TABLE other (k int4, v int4)");
  db_.run("SELECT tick.create_rollup('other_rollup', 'SELECT k, sum(v) AS v FROM other GROUP BY k')");
  if (!nothing_.empty())
    db_.run("CREATE FUNCTION nothing() RETURNS trigger LANGUAGE c AS '" + nothing_ + "', 'nothing'");
  wait();
}

// ---- COPY ------------------------------------------------------------

void Bench::measure(Variant& variant, const std::vector<std::string>& copies,
                    const std::vector<std::string>& columns, bool last) {
  create_table("timestamptz '2024-08-08 10:00:00+00'", variant.partitioned);
  create_rollups(variant.rollups);
  if (variant.extra != nullptr) db_.run(variant.extra);
  wait();
  db_.run("CHECKPOINT");
  Connection writer(conninfo_);
  if (variant.unsynced) writer.run("SET synchronous_commit = off");
  if (variant.ingest) writer.prepare_ingest("trades");
  const Usage before = usage(writer.pid());
  const double start = now();
  for (size_t i = 0; i < copies.size(); ++i)
    if (variant.ingest)
      writer.ingest(columns[i]);
    else
      writer.copy("COPY trades FROM STDIN (FORMAT binary)", copies[i]);
  const double took = now() - start;
  const double rows = static_cast<double>(copies.size()) * transaction_rows;
  variant.rate.push_back(rows / took);
  const Usage used = usage(writer.pid()) - before;
  variant.cpu.push_back(used.ran * 1e6 / rows);
  variant.waited.push_back(used.waited / took * 100);
  wait();
  variant.merged.push_back((now() - start - took) * 1e3);
  if (last) verify(variant.rollups);
  drop(variant.rollups);
}

void Bench::copy() {
  const long rows = std::max<long>(setting("ROWS", 500000) / transaction_rows, 1) * transaction_rows;
  const long rounds = std::max<long>(setting("ROUNDS", 7), 1);
  std::vector<std::string> batches(static_cast<size_t>(rows / transaction_rows)), columns;
  Walk walk(1);
  const int64_t start = (int64_t{1723111200} - 946684800) * 1000000;  // 2024-08-08 10:00, 20,000 ticks/s
  int64_t id = 0;
  std::vector<int64_t> ids(symbols);
  for (std::string& batch : batches) {
    begin_copy(batch);
    BatchWriter writer = trade_columns_writer();
    for (int i = 0; i < transaction_rows; ++i, ++id) {
      Trade trade = walk.next(start + id * 50, 0);
      trade.id = ++ids[static_cast<size_t>(trade.symbol)];  // contiguous per symbol, as exchanges count
      put_trade(batch, trade);
      put_trade(writer, trade);
    }
    end_copy(batch);
    columns.push_back(writer.finish());
  }
  std::vector<Variant> variants;
  const char* only = std::getenv("ONLY");
  const auto add = [&](const char* name, int count, bool partitioned, const char* extra, size_t base,
                       bool ingest = false, bool unsynced = false) {
    const bool wanted = only == nullptr || *only == '\0' || base == variants.size();
    if (!wanted && std::strstr(name, only) == nullptr) return;
    variants.push_back({name, count, partitioned, extra, base, ingest, unsynced, {}, {}, {}, {}, {}, {}});
  };
  add("bare table", 0, false, nullptr, 0);
  if (!nothing_.empty())
    add("a row trigger that does nothing", 0, false,
        "CREATE TRIGGER nothing AFTER INSERT ON trades FOR EACH ROW EXECUTE FUNCTION nothing()", 0);
  add("capture, 1 rollup", 1, false, nullptr, 0);
  add("capture, 3 rollups", 3, false, nullptr, 0);
  add("capture, 8 rollups", 8, false, nullptr, 0);
  const char* dedup =
      "SELECT tick.alter_source('trades', dedup_key => '{exchange,symbol}', dedup_id => 'trade_id')";
  add("capture, 3 rollups, dedup", 3, false, dedup, 0);
  add("tick.ingest, bare table", 0, false, nullptr, 0, true);
  add("tick.ingest, 4 rollups", 4, false, nullptr, 0, true);
  add("tick.ingest, 4 rollups, dedup", 4, false, dedup, 0, true);
  add("btree (symbol, ts)", 0, false, "CREATE INDEX ON trades (symbol, ts)", 0);
  add("unique index (symbol, trade_id)", 0, false, "CREATE UNIQUE INDEX ON trades (symbol, trade_id)", 0);
  const size_t partitioned = variants.size();
  add("partitioned by day, bare", 0, true, nullptr, partitioned);
  add("partitioned by day, 3 rollups", 3, true, nullptr, partitioned);
  const size_t unsynced = variants.size();
  add("synchronous_commit off, bare", 0, false, nullptr, unsynced, false, true);
  add("the same, tick.ingest, 4 r., dedup", 4, false, dedup, unsynced, true, true);

  for (long round = 0; round < rounds; ++round) {
    for (Variant& variant : variants) measure(variant, batches, columns, round == rounds - 1);
    for (Variant& variant : variants) {
      variant.ratio.push_back(variant.rate.back() / variants[variant.base].rate.back());
      variant.cpu_ratio.push_back(variants[variant.base].cpu.back() / variant.cpu.back());
    }
  }
  std::printf(
      "\nCOPY BINARY and tick.ingest, %d rows a transaction, %ld rows, %ld interleaved rounds, medians\n",
      transaction_rows, rows, rounds);
  std::printf("%-34s %9s %6s %6s %6s %8s %6s %7s %12s\n", "", "rows/s", "ratio", "min", "max", "CPU us",
              "ratio", "waited", "merged after");
  for (Variant& variant : variants) {
    const auto [least, most] = std::minmax_element(variant.ratio.begin(), variant.ratio.end());
    std::printf("%-34s %9.0f %6.2f %6.2f %6.2f %8.2f %6.2f %5.0f %%", variant.name, median(variant.rate),
                median(variant.ratio), *least, *most, median(variant.cpu), median(variant.cpu_ratio),
                median(variant.waited));
    if (variant.rollups > 0) std::printf(" %9.1f ms", median(variant.merged));
    std::printf("\n");
  }
  std::printf(
      "ratio: to bare (partitioned: to partitioned bare), in rows/s and in the writer's CPU time a row; "
      "waited: share of"
      "\nthe time the writer waited for a core, more than a few percent is a busy machine; merged after: "
      "last COMMIT\n");
}

// ---- latency ------------------------------------------------------------

// The writer keeps its schedule whatever happens; the reader polls one candle for the last id it holds.
void Bench::measure(const Load& load) {
  create_table("now()", true);
  create_rollups(3);
  if (load.medians)
    db_.run(
        "SELECT tick.create_rollup('medians_1m', 'SELECT exchange, symbol, tick.tumble(ts, ''1 minute'') AS "
        "ts, "
        "percentile_cont(0.5) WITHIN GROUP (ORDER BY price) AS median, count(DISTINCT price) AS prices FROM "
        "trades GROUP BY 1, 2, 3')");
  wait();
  const double seconds = static_cast<double>(setting("DURATION", 10)), warm = 1;
  const auto commits = static_cast<long>((seconds + warm) / load.period);
  const auto first = static_cast<long>(warm / load.period);
  Connection writer(conninfo_), reader(conninfo_);
  const int worker = worker_pid();
  std::vector<double> visible, committed, polls;
  std::atomic<bool> over = false;
  const double start = now() + 0.05;
  const auto due = [&](long commit) { return start + static_cast<double>(commit) * load.period; };

  std::thread reading([&] {
    prctl(PR_SET_TIMERSLACK, 1);
    LastId poll(reader);
    long next = 0;
    double last = 0;
    for (double at = start; next < commits && !over; at = std::max(at + 0.0005, now())) {
      sleep_until(at);
      const auto id = poll.read();
      const double seen = now();
      if (id) {
        const long there = *id / load.rows;
        for (; next < there; ++next)
          if (next >= first && next % load.stride == 0) visible.push_back((seen - due(next)) * 1e3);
      }
      if (last != 0 && next >= first) polls.push_back((seen - last) * 1e3);
      last = seen;
    }
  });

  prctl(PR_SET_TIMERSLACK, 1);
  Walk walk(2);
  std::string batch;
  int64_t id = 0;
  Usage worker_used, writer_used;
  double measured_from = 0;
  PQclear(writer.checked(PQprepare(writer.raw(), "one",
                                   "INSERT INTO trades VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", 0, nullptr),
                         "prepare"));
  for (long commit = 0; commit < commits; ++commit) {
    sleep_until(due(commit));
    if (commit == first) {
      worker_used = usage(worker);
      writer_used = usage(writer.pid());
      measured_from = now();
    }
    const int64_t ts = wall_micros();
    const bool sentinel = commit % load.stride == 0;
    if (load.rows == 1) {
      batch.clear();
      ++id;
      put_trade(batch, sentinel ? walk.of(0, ts, id) : walk.next(ts, id));
      const char* values[trade_fields];
      int sizes[trade_fields], formats[trade_fields];
      const char* at = batch.data() + 2;
      for (int f = 0; f < trade_fields; ++f) {
        uint32_t size;
        std::memcpy(&size, at, sizeof size);
        sizes[f] = static_cast<int>(__builtin_bswap32(size));
        values[f] = at + 4;
        formats[f] = 1;
        at += 4 + sizes[f];
      }
      PQclear(writer.checked(PQexecPrepared(writer.raw(), "one", trade_fields, values, sizes, formats, 1),
                             "insert"));
    } else {
      begin_copy(batch);
      for (int i = 1; i < load.rows; ++i) put_trade(batch, walk.next(ts, ++id));
      put_trade(batch, walk.of(0, ts, ++id));
      end_copy(batch);
      writer.copy("COPY trades FROM STDIN (FORMAT binary)", batch);
    }
    if (commit >= first) committed.push_back((now() - due(commit)) * 1e3);
  }
  const double measured = now() - measured_from;
  worker_used = usage(worker) - worker_used;
  writer_used = usage(writer.pid()) - writer_used;
  const double percent = 100 / measured;
  for (const double give_up = now() + 30;
       now() < give_up && visible.size() < static_cast<size_t>((commits - 1) / load.stride -
                                                               (first + load.stride - 1) / load.stride + 1);)
    sleep_until(now() + 0.001);
  over = true;
  reading.join();
  wait();
  verify(3);
  const size_t samples = visible.size();
  const double p50 = quantile(visible, 0.5), p99 = quantile(visible, 0.99),
               most = visible.empty() ? 0 : visible.back();
  const double c50 = quantile(committed, 0.5), c99 = quantile(committed, 0.99);
  std::printf("%-37s %8.2f %8.2f %8.2f %9.2f %8.2f %5.1f %% %5.1f %% %6.1f %% %8zu %7.2f %8.0f\n", load.name,
              p50, p99, most, c50, c99, worker_used.ran * percent, writer_used.ran * percent,
              (worker_used.waited + writer_used.waited) * percent, samples, quantile(polls, 0.99),
              static_cast<double>(commits - first) * load.rows / measured);
  std::fflush(stdout);
  if (load.medians) db_.run("SELECT tick.drop_rollup('medians_1m')");
  drop(3);
}

void Bench::latency() {
  std::printf(
      "\nFrom the scheduled send to the first read that shows it, open loop, 3 rollups, partitioned by day,"
      " %ld s each, ms\n",
      setting("DURATION", 10));
  std::printf("%-37s %8s %8s %8s %9s %8s %7s %7s %8s %8s %7s %8s\n", "", "p50", "p99", "max", "COMMIT50",
              "p99", "worker", "writer", "waited", "samples", "poll99", "ticks/s");
  measure({"100 rows a commit, 5,000 ticks/s", 100, 0.02, 1});
  measure({"1,000 rows each 50 ms, 20,000 ticks/s", 1000, 0.05, 1});
  measure({"1 row a commit, 2,000 ticks/s", 1, 0.0005, 5});
  if (setting("MEDIANS", 0) != 0) {
    measure({"100 rows a commit, and medians", 100, 0.02, 1, true});
    measure({"1,000 rows each 50 ms, and medians", 1000, 0.05, 1, true});
    measure({"1 row a commit, and medians", 1, 0.0005, 5, true});
  }
  std::printf(
      "COMMIT: when it returned to the writer; worker, writer: CPU of one core; waited: both of them for a "
      "core;"
      " poll99: p99 between two reads\n");
}

// ---- recompute ------------------------------------------------------------

void Bench::recompute() {
  const long rows = std::max<long>(setting("HISTORY", 3000000), 1000);
  const long rounds = std::max<long>(setting("ROUNDS", 5), 1);
  create_table("", false);
  db_.run("INSERT INTO trades SELECT 'binance', 'SYM' || lpad((g * 7919 % " + std::to_string(symbols) +
          ")::text, 3, '0') || 'USDT', timestamptz '2024-08-08 10:00:00+00' + g * interval '1 hour' / " +
          std::to_string(rows) +
          ", 100 + (g * 31 % 997) / 100.0, (g * 17 % 9973) / 1000.0 + 0.001, g, g % 2 = 0,"
          " timestamptz '2024-08-08 10:00:00+00' FROM generate_series(int8 '1', " +
          std::to_string(rows) + ") g");
  db_.run("VACUUM ANALYZE trades");
  db_.run("CHECKPOINT");
  db_.run("SET max_parallel_workers_per_gather = 0; SET jit = off; SET work_mem = '256MB'");
  std::vector<double> counted, executed, recomputed, ratio_count, ratio_query;
  const auto time = [&](const std::string& sql) {
    const double start = now();
    db_.run(sql);
    return now() - start;
  };
  for (long round = 0; round < rounds; ++round) {
    const double count = time("SELECT count(*) FROM trades");
    const double query_time =
        time("SELECT count(*), sum(volume), sum(open), sum(close), sum(vwap), sum(high), sum(low) FROM (" +
             query(rollups[0], "trades") + ") q");
    const double start = now();
    create_rollups(1);
    wait();
    const double took = now() - start, all = static_cast<double>(rows);
    counted.push_back(all / count);
    executed.push_back(all / query_time);
    recomputed.push_back(all / took);
    ratio_count.push_back(count / took);
    ratio_query.push_back(query_time / took);
    if (round == rounds - 1) verify(1);
    if (round < rounds - 1) db_.run("SELECT tick.drop_rollup('candles_1m')");
  }
  const std::string candles = db_.value("SELECT count(*) FROM candles_1m");
  std::printf(
      "\nRecompute of candles_1m: %ld rows into %s candles, %ld interleaved rounds, medians, no parallel "
      "workers\n",
      rows, candles.c_str(), rounds);
  std::printf("%-34s %12s\n", "", "rows/s");
  std::printf("%-34s %12.0f\n", "count(*)", median(counted));
  std::printf("%-34s %12.0f\n", "its query in the executor", median(executed));
  std::printf("%-34s %12.0f   %.2f of count(*), %.2f of the executor\n", "create_rollup until tick.wait",
              median(recomputed), median(ratio_count), median(ratio_query));
  drop(1);
}

// ---- creation ------------------------------------------------------------

// create_rollup over days of history while a feed commits 1,000 rows each 50 ms and another writer stays
// open: how long the feed's commits wait, when the newest windows and the whole history are there, and how
// live rows fare.
void Bench::creation() {
  const long rows = std::max<long>(setting("HISTORY", 5000000), 10000);
  const long hold = std::max<long>(setting("HOLD", 60), 1);
  constexpr int batch_rows = 1000;
  constexpr double period = 0.05;
  db_.run(std::string("CREATE TABLE trades (") + trade_columns + ") PARTITION BY RANGE (ts)");
  const std::string midnight = db_.value("SELECT date_trunc('day', now())");
  for (int day = -4; day <= 1; ++day)
    db_.run("CREATE TABLE trades_" + std::to_string(day + 4) +
            " PARTITION OF trades FOR VALUES FROM (timestamptz '" + midnight + "' + '" + std::to_string(day) +
            " days') TO (timestamptz '" + midnight + "' + '" + std::to_string(day + 1) + " days')");
  const std::string count = std::to_string(rows);
  db_.run("INSERT INTO trades SELECT 'binance', 'SYM' || lpad((g * 7919 % " + std::to_string(symbols) +
          ")::text, 3, '0') || 'USDT', now() - interval '4 days' + g * (interval '4 days' - interval '10 "
          "seconds') / " +
          count +
          ", 100 + (g * 31 % 997) / 100.0, (g * 17 % 9973) / 1000.0 + 0.001, g, g % 2 = 0, now()"
          " FROM generate_series(int8 '1', " +
          count + ") g");
  db_.run("VACUUM ANALYZE trades");
  db_.run("CHECKPOINT");  // history is on the disk, not on its way there
  db_.run("SELECT tick.create_rollup('live_price', $$" + query(rollups[2], "trades") + "$$)");
  wait();

  // The feed, and a reader of a rollup that was there before.
  std::atomic<bool> over = false;
  std::atomic<double> locked = 0, complete = 0;
  struct Point {
    double at, took;
  };
  std::vector<Point> commits, visible;
  const double start = now() + 0.1;
  std::atomic<long> sent = 0;
  std::thread feeding([&] {
    Connection writer(conninfo_);
    Walk walk(3);
    std::string batch;
    int64_t id = rows;
    for (long commit = 0; !over; ++commit) {
      const double at = start + static_cast<double>(commit) * period;
      sleep_until(at);
      begin_copy(batch);
      const int64_t ts = wall_micros();
      for (int i = 1; i < batch_rows; ++i) put_trade(batch, walk.next(ts, ++id));
      put_trade(batch, walk.of(0, ts, ++id));
      end_copy(batch);
      writer.copy("COPY trades FROM STDIN (FORMAT binary)", batch);
      commits.push_back({at, now() - at});
      sent = commit + 1;
    }
  });
  std::thread reading([&] {
    Connection reader(conninfo_);
    long next = 0;
    while (!over || next < sent) {
      const std::string last = reader.value("SELECT sum(trades) FROM live_price WHERE exchange = 'binance'");
      const double seen = now();
      const long there = (std::atol(last.c_str()) - rows) / batch_rows;
      for (; next < there; ++next) {
        const double at = start + static_cast<double>(next) * period;
        visible.push_back({at, seen - at});
      }
      if (over && now() - complete > 30) break;
      sleep_until(now() + 0.005);
    }
  });

  // Another writer, open for a while.
  sleep_until(start + 2);
  std::thread holding([&] {
    Connection holder(conninfo_);
    holder.run("BEGIN");
    holder.run("INSERT INTO trades VALUES ('held', 'HELD', now(), 1, 1, 0, true, now())");
    sleep_until(now() + static_cast<double>(hold));
    holder.run("COMMIT");
  });
  sleep_until(start + 3);
  const double asked = now();
  Connection maker(conninfo_);
  maker.run("SET tick.lock_timeout = '" + std::to_string(hold + 60) + " s'");
  maker.run("SELECT tick.create_rollup('candles_1m', $$" + query(rollups[0], "trades") + "$$)");
  locked = now();
  holding.join();
  const std::string range =
      " WHERE ts >= date_trunc('minute', now() - interval '3 minutes') - interval '1 hour'"
      " AND ts < date_trunc('minute', now() - interval '3 minutes')";
  Connection poll(conninfo_);
  poll.run("BEGIN");
  const std::string newest = poll.value("SELECT count(*) FROM trades" + range);
  const std::string bounds = poll.value(
      "SELECT format(' WHERE ts >= %L AND ts < %L', date_trunc('minute', now() - interval "
      "'3 minutes') - interval '1 hour', date_trunc('minute', now() - interval '3 minutes'))");
  poll.run("COMMIT");
  double exact_at = 0;
  while (exact_at == 0 && now() - locked < 300) {
    if (poll.value("SELECT sum(trades) FROM candles_1m" + bounds) == newest) exact_at = now();
    if (exact_at == 0) sleep_until(now() + 0.02);
  }
  while (poll.value("SELECT state FROM tick.status WHERE rollup = 'candles_1m'::regclass") != "live" &&
         now() - locked < 300)
    sleep_until(now() + 0.05);
  complete = now();
  sleep_until(now() + 2);
  over = true;
  feeding.join();
  reading.join();
  wait();
  verify(1);

  // Killed in the middle, the feed being away: a crash of one process restarts the server.
  double again = 0;
  db_.run("SELECT tick.drop_rollup('candles_1m')");
  db_.run("SELECT tick.create_rollup('candles_1m', $$" + query(rollups[0], "trades") + "$$)");
  std::string helper;
  for (const double give_up = now() + 60; helper.empty() && now() < give_up;)
    helper = db_.value(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_tick scan'"
        " AND EXISTS (SELECT FROM tick_catalog.scan_progress() WHERE rows > 100000)");
  if (!helper.empty() && kill(std::atoi(helper.c_str()), SIGKILL) == 0) {
    const double killed = now();
    for (bool alive = true; alive;) {  // until the postmaster has ended this session too
      PGresult* result = PQexec(db_.raw(), "SELECT pg_sleep(0.01)");
      alive = PQresultStatus(result) == PGRES_TUPLES_OK;
      PQclear(result);
    }
    db_.reconnect(60);
    wait();
    again = now() - killed;
    verify(1);
  }

  std::vector<double> waiting, held, quiet, live;
  for (const Point& point : commits) {
    if (point.at >= asked && point.at < locked) held.push_back(point.took * 1e3);
    if (point.at >= asked && point.at < complete) waiting.push_back(point.took * 1e3);
  }
  for (const Point& point : visible) {
    if (point.at < asked) quiet.push_back(point.took * 1e3);
    if (point.at >= locked && point.at < complete) live.push_back(point.took * 1e3);
  }
  const auto most = [](const std::vector<double>& sample) {
    return sample.empty() ? 0 : *std::max_element(sample.begin(), sample.end());
  };
  std::printf(
      "\nCreation of candles_1m over %ld rows in 5 days, a feed of 20,000 ticks/s, a writer open for %ld s\n",
      rows, hold);
  std::printf("create_rollup returned after             %8.2f s\n", locked - asked);
  std::printf(
      "a feed's commit waited at most           %8.0f ms until then, %.0f ms until the end (p99 %.0f)\n",
      most(held), most(waiting), quantile(waiting, 0.99));
  std::printf(
      "the newest hour was complete after       %8.2f s (from the later of lock and the other writer's "
      "end)\n",
      exact_at - locked);
  std::printf("the whole history was complete after     %8.2f s\n", complete - locked);
  std::printf("live rows of another rollup: p99 before  %8.0f ms, meanwhile %.0f ms (p50 %.0f, most %.0f)\n",
              quantile(quiet, 0.99), quantile(live, 0.99), quantile(live, 0.5), most(live));
  if (again > 0) std::printf("kill -9 in the middle: complete after    %8.2f s\n", again);
  std::fflush(stdout);
  db_.run("SELECT tick.drop_rollup('candles_1m')");
  db_.run("SELECT tick.drop_rollup('live_price')");
  db_.run("DROP TABLE trades");
}

}  // namespace
}  // namespace tick::bench

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench CONNINFO [NOTHING_LIBRARY]\n");
    return 2;
  }
  const char* selected = std::getenv("BENCH");
  const std::string parts = selected == nullptr || *selected == '\0' ? "copy latency recompute" : selected;
  tick::bench::Bench bench(argv[1], argc > 2 ? argv[2] : "");
  bench.prepare();
  if (parts.find("copy") != std::string::npos) bench.copy();
  if (parts.find("latency") != std::string::npos) bench.latency();
  if (parts.find("recompute") != std::string::npos) bench.recompute();
  if (parts.find("creation") != std::string::npos) bench.creation();
  std::printf("\nrollups exact: %s\n", bench.exact() ? "yes" : "no");
  return bench.exact() ? 0 : 1;
}
