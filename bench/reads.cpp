// What readers wait for: 200 symbols with DAYS (default 365) of 1m candles, a feed of 5,000 ticks/s and one
// reader that asks in turns for the last hour of all symbols, whole and as a chart draws it, the latest
// candle of each and the last hundred of one. Usage: reads CONNINFO. Promise: every row is fetched, in
// binary; prints p50 and p99 of each, without and with the feed, and the p50 of the same question to a plain
// table that holds the view's rows under the same two indexes; fails if the last hours are not exact.
#include <sys/prctl.h>

#include <atomic>
#include <thread>

#include "client.hpp"

using namespace tick::bench;

namespace {

constexpr int rows_a_commit = 100;
constexpr double period = 0.02;
constexpr int rounds = 200;

struct Question {
  const char* name;
  const char* query;
  int rows = 0;
  std::vector<double> quiet, fed, plain;
};

// One tick a minute and symbol, then the rollups over them.
void prepare(Connection& db, int days) {
  db.run("CREATE EXTENSION IF NOT EXISTS pg_tick");
  db.run(std::string("CREATE TABLE trades (") + trade_columns + ")");
  const double loading = now();
  for (int day = days; day > 0; --day)
    db.run(
        "INSERT INTO trades SELECT 'binance', 'SYM' || lpad(s::text, 3, '0') || 'USDT', m, 10 * (s + 1) + "
        "(hashint4(s * 7919 + extract(epoch FROM m)::int4) % 1000) / 100.0, 1, 0, false, NULL FROM "
        "generate_series(date_trunc('minute', now()) - interval '" +
        std::to_string(day) + " days', date_trunc('minute', now()) - interval '" + std::to_string(day - 1) +
        " days 1 minute', '1 minute') AS m, generate_series(0, " + std::to_string(symbols - 1) + ") AS s");
  const double creating = now();
  db.run(
      "SELECT tick.create_rollup('candles_1m', $$SELECT symbol, tick.tumble(ts, '1 minute') AS ts, "
      "tick.first(price, ts, "
      "trade_id) AS open, max(price) AS high, min(price) AS low, tick.last(price, ts, trade_id) AS close, "
      "sum(qty) AS "
      "volume, count(*) AS trades, sum(price * qty) / nullif(sum(qty), 0) AS vwap FROM trades GROUP BY 1, "
      "2$$)");
  db.run(
      "SELECT tick.create_rollup('latest_price', $$SELECT symbol, tick.last(price, ts, trade_id) AS price "
      "FROM trades "
      "GROUP BY 1$$)");
  if (db.value("SELECT tick.wait(NULL, '3 hours')") != "t") std::printf("the history is not complete\n");
  std::printf("%s candles, %s and %s of index; loaded in %.0f s, computed in %.0f s\n",
              db.value("SELECT count(*) FROM candles_1m_state").c_str(),
              db.value("SELECT pg_size_pretty(pg_relation_size('candles_1m_state'))").c_str(),
              db.value("SELECT pg_size_pretty(pg_indexes_size('candles_1m_state'))").c_str(),
              creating - loading, now() - creating);
  db.run("VACUUM ANALYZE candles_1m_state");
  db.run("VACUUM ANALYZE latest_price_state");
  db.run("CREATE TABLE plain AS SELECT * FROM candles_1m");
  db.run("CREATE UNIQUE INDEX ON plain (symbol, ts)");
  db.run("CREATE INDEX ON plain (ts)");
  db.run("VACUUM ANALYZE plain");
}

void feed(const std::string& conninfo, const std::atomic<bool>& over) {
  Connection writer(conninfo);
  Walk walk(3);
  std::string batch;
  int64_t id = 0;
  const double start = now();
  for (long commit = 0; !over; ++commit) {
    sleep_until(start + static_cast<double>(commit) * period);
    const int64_t ts = wall_micros();
    begin_copy(batch);
    for (int i = 0; i < rows_a_commit; ++i) put_trade(batch, walk.next(ts, ++id));
    end_copy(batch);
    writer.copy("COPY trades FROM STDIN (FORMAT binary)", batch);
  }
}

std::string of_plain(std::string query) {
  return query.replace(query.find("candles_1m"), std::strlen("candles_1m"), "plain");
}

// Its rows; adds the milliseconds that it took.
int answer(Connection& db, const std::string& name, std::vector<double>& times) {
  const double asked = now();
  PGresult* result =
      db.checked(PQexecPrepared(db.raw(), name.c_str(), 0, nullptr, nullptr, nullptr, 1), name.c_str());
  times.push_back((now() - asked) * 1e3);
  const int rows = PQntuples(result);
  PQclear(result);
  sleep_until(now() + 0.01);
  return rows;
}

void ask(Connection& db, std::vector<Question>& questions, bool fed) {
  for (int round = 0; round < rounds; ++round) {
    for (Question& question : questions) {
      question.rows = answer(db, question.name, fed ? question.fed : question.quiet);
      if (!fed) (void)answer(db, std::string("plain: ") + question.name, question.plain);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: reads CONNINFO\n");
    return 2;
  }
  prctl(PR_SET_TIMERSLACK, 1);
  const char* text = std::getenv("DAYS");
  Connection db(argv[1]);
  std::printf("\nReads from 200 symbols of 1m candles\n");
  prepare(db, text == nullptr || *text == '\0' ? 365 : std::max(1, std::atoi(text)));
  std::vector<Question> questions = {
      {"last hour of all symbols",
       "SELECT * FROM candles_1m WHERE ts >= now() - interval '1 hour'",
       0,
       {},
       {},
       {}},
      {"the same, closing prices",
       "SELECT symbol, ts, close FROM candles_1m WHERE ts >= now() - interval '1 hour'",
       0,
       {},
       {},
       {}},
      {"latest of each symbol",
       "SELECT c.* FROM latest_price AS l CROSS JOIN LATERAL (SELECT * FROM candles_1m AS m WHERE m.symbol = "
       "l.symbol "
       "ORDER BY m.ts DESC LIMIT 1) AS c",
       0,
       {},
       {},
       {}},
      {"last 100 of one symbol",
       "SELECT * FROM candles_1m WHERE symbol = 'SYM123USDT' ORDER BY ts DESC LIMIT 100",
       0,
       {},
       {},
       {}}};
  for (const Question& question : questions) {
    PQclear(db.checked(PQprepare(db.raw(), question.name, question.query, 0, nullptr), "prepare"));
    PQclear(db.checked(PQprepare(db.raw(), (std::string("plain: ") + question.name).c_str(),
                                 of_plain(question.query).c_str(), 0, nullptr),
                       "prepare"));
  }
  ask(db, questions, false);
  std::atomic<bool> over = false;
  std::thread feeding(feed, argv[1], std::cref(over));
  sleep_until(now() + 2);
  ask(db, questions, true);
  over = true;
  feeding.join();
  std::printf("%-26s %8s %10s %10s %12s %12s %13s %6s\n", "", "rows", "p50 ms", "p99 ms", "fed p50 ms",
              "fed p99 ms", "plain p50 ms", "ratio");
  for (Question& question : questions)
    std::printf("%-26s %8d %10.2f %10.2f %12.2f %12.2f %13.2f %6.2f\n", question.name, question.rows,
                quantile(question.quiet, 0.5), quantile(question.quiet, 0.99), quantile(question.fed, 0.5),
                quantile(question.fed, 0.99), quantile(question.plain, 0.5),
                quantile(question.quiet, 0.5) / quantile(question.plain, 0.5));
  const bool exact =
      db.value("SELECT tick.wait(NULL, '60 s')") == "t" &&
      db.value("SELECT count(*) FROM tick.verify('candles_1m', now() - interval '3 hours')") == "0" &&
      db.value("SELECT count(*) FROM tick.verify('latest_price')") == "0";
  std::printf("\nrollups exact: %s\n", exact ? "yes" : "no");
  return exact ? 0 : 1;
}
