// What the benchmarks share: a libpq connection that ends the program on an error, trades as COPY BINARY
// bytes, clocks, CPU time of other processes, medians and percentiles. Promise: nothing here allocates or
// formats inside a measured loop that does not have to.
#pragma once

#include <libpq-fe.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "../extension/core/batch.hpp"

namespace tick::bench {

inline double now() {
  timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return static_cast<double>(at.tv_sec) + static_cast<double>(at.tv_nsec) * 1e-9;
}

inline void sleep_until(double due) {
  timespec at;
  at.tv_sec = static_cast<time_t>(due);
  at.tv_nsec = static_cast<long>((due - static_cast<double>(at.tv_sec)) * 1e9);
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr);
}

// Microseconds since 2000-01-01, as timestamptz has them.
inline int64_t wall_micros() {
  timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  return (static_cast<int64_t>(at.tv_sec) - 946684800) * 1000000 + at.tv_nsec / 1000;
}

// Seconds that all threads of a process have run (user and system), and have waited for a core, which is what
// other work on the machine does to a measurement. From /proc/PID/task/TID/schedstat; without it, from
// /proc/PID/stat in clock ticks.
struct Usage {
  double ran = 0, waited = 0;
  Usage operator-(const Usage& before) const { return {ran - before.ran, waited - before.waited}; }
};

inline Usage usage(int pid) {
  const std::string proc = "/proc/" + std::to_string(pid);
  char line[1024];
  const auto read = [&line](const std::string& name) {
    FILE* file = std::fopen(name.c_str(), "r");
    if (file == nullptr) return false;
    const bool read = std::fgets(line, sizeof line, file) != nullptr;
    std::fclose(file);
    return read;
  };
  unsigned long a = 0, b = 0;
  Usage all;
  std::error_code gone;
  for (const auto& thread : std::filesystem::directory_iterator(proc + "/task", gone))
    if (read(thread.path().string() + "/schedstat") && std::sscanf(line, "%lu %lu", &a, &b) == 2)
      all = {all.ran + static_cast<double>(a) * 1e-9, all.waited + static_cast<double>(b) * 1e-9};
  if (all.ran > 0) return all;
  const char* rest = read(proc + "/stat") ? std::strrchr(line, ')') : nullptr;
  if (rest == nullptr ||
      std::sscanf(rest + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &a, &b) != 2)
    return {};
  return {static_cast<double>(a + b) / static_cast<double>(sysconf(_SC_CLK_TCK)), 0};
}

// q of a sample, nearest rank; the sample is sorted by this.
inline double quantile(std::vector<double>& sample, double q) {
  if (sample.empty()) return 0;
  std::sort(sample.begin(), sample.end());
  return sample[std::min(sample.size() - 1, static_cast<size_t>(q * static_cast<double>(sample.size())))];
}

inline double median(std::vector<double> sample) {
  if (sample.empty()) return 0;
  std::sort(sample.begin(), sample.end());
  const size_t half = sample.size() / 2;
  return sample.size() % 2 == 1 ? sample[half] : (sample[half - 1] + sample[half]) / 2;
}

class Connection {
 public:
  explicit Connection(const std::string& conninfo) : connection_(PQconnectdb(conninfo.c_str())) {
    if (PQstatus(connection_) != CONNECTION_OK) fail("connection");
    run("SET client_min_messages = error");
  }
  ~Connection() { PQfinish(connection_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  PGconn* raw() { return connection_; }

  // After the server has ended the connection; tries for so many seconds.
  void reconnect(double seconds) {
    for (const double give_up = now() + seconds;;) {
      PQreset(connection_);
      if (PQstatus(connection_) == CONNECTION_OK) break;
      if (now() > give_up) fail("reconnection");
      sleep_until(now() + 0.05);
    }
    run("SET client_min_messages = error");
  }

  int pid() { return PQbackendPID(connection_); }

  void run(const std::string& sql) { PQclear(checked(PQexec(connection_, sql.c_str()), sql)); }

  // The first field of the first row; empty if there is none or it is NULL.
  std::string value(const std::string& sql) {
    PGresult* result = checked(PQexec(connection_, sql.c_str()), sql);
    const std::string text = PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "";
    PQclear(result);
    return text;
  }

  // One COPY of prepared bytes; with autocommit, one transaction.
  void copy(const std::string& statement, const std::string& data) {
    PGresult* result = PQexec(connection_, statement.c_str());
    if (PQresultStatus(result) != PGRES_COPY_IN) fail(statement);
    PQclear(result);
    if (PQputCopyData(connection_, data.data(), static_cast<int>(data.size())) != 1 ||
        PQputCopyEnd(connection_, nullptr) != 1)
      fail(statement);
    while ((result = PQgetResult(connection_)) != nullptr) PQclear(checked(result, statement));
  }

  // A generic plan: any other is made anew with the batch in it, copied several times.
  void prepare_ingest(const std::string& table) {
    run("SET plan_cache_mode = force_generic_plan");
    const std::string sql = "SELECT tick.ingest('" + table + "', $1)";
    PQclear(checked(PQprepare(connection_, "ingest", sql.c_str(), 0, nullptr), "prepare"));
  }
  void ingest(const std::string& batch) {
    const char* values[] = {batch.data()};
    const int sizes[] = {static_cast<int>(batch.size())}, formats[] = {1};
    PQclear(checked(PQexecPrepared(connection_, "ingest", 1, values, sizes, formats, 1), "tick.ingest"));
  }

  PGresult* checked(PGresult* result, const std::string& what) {
    const ExecStatusType status = PQresultStatus(result);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) fail(what);
    return result;
  }

 private:
  [[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "bench: %s: %s", what.c_str(), PQerrorMessage(connection_));
    std::exit(1);
  }

  PGconn* connection_;
};

inline constexpr int symbols = 200;

struct Trade {
  int symbol;
  int64_t ts;
  double price, qty;
  int64_t id;
  bool maker;
};

// A random walk of all symbols.
class Walk {
 public:
  explicit Walk(uint32_t seed) : random_(seed), price_(symbols) {
    for (int s = 0; s < symbols; ++s) price_[s] = 10.0 * (s + 1);
  }
  Trade next(int64_t ts, int64_t id) { return of(static_cast<int>(random_() % symbols), ts, id); }
  Trade of(int symbol, int64_t ts, int64_t id) {
    const uint64_t bits = random_();
    price_[symbol] += (static_cast<double>(bits & 0xff) - 127.5) * 0.01;
    return {symbol,
            ts,
            std::max(0.01, std::round(price_[symbol] * 100) / 100),
            static_cast<double>((bits >> 8) % 100000 + 1) * 1e-5,
            id,
            (bits >> 40 & 1) != 0};
  }

 private:
  std::mt19937_64 random_;
  std::vector<double> price_;
};

template <typename Int>
void put(std::string& out, Int value) {
  char bytes[sizeof value];
  for (size_t i = 0; i < sizeof value; ++i)
    bytes[i] = static_cast<char>(static_cast<uint64_t>(value) >> (8 * (sizeof value - 1 - i)));
  out.append(bytes, sizeof value);
}

template <typename Int>
void put_field(std::string& out, Int value) {
  put(out, static_cast<int32_t>(sizeof value));
  put(out, value);
}

inline constexpr int trade_fields = 8;
inline const char* const trade_columns =
    "exchange text NOT NULL, symbol text NOT NULL, ts timestamptz NOT NULL, price float8 NOT NULL, qty "
    "float8,"
    " trade_id int8, is_buyer_maker bool, received_at timestamptz";

inline void put_text(std::string& out, const char* text) {
  const auto size = static_cast<int32_t>(std::strlen(text));
  put(out, size);
  out.append(text, static_cast<size_t>(size));
}

inline void put_trade(std::string& out, const Trade& trade) {
  char symbol[16];
  std::snprintf(symbol, sizeof symbol, "SYM%03dUSDT", trade.symbol);
  put(out, static_cast<int16_t>(trade_fields));
  put_text(out, "binance");
  put_text(out, symbol);
  put_field(out, trade.ts);
  put_field(out, std::bit_cast<int64_t>(trade.price));
  put_field(out, std::bit_cast<int64_t>(trade.qty));
  put_field(out, trade.id);
  put_field(out, static_cast<int8_t>(trade.maker));
  put_field(out, trade.ts + 3000);
}

inline BatchWriter trade_columns_writer() {
  using Kind = BatchColumn::Kind;
  return BatchWriter({{"exchange", Kind::words},
                      {"symbol", Kind::words},
                      {"ts", Kind::time},
                      {"price", Kind::number},
                      {"qty", Kind::number},
                      {"trade_id", Kind::whole},
                      {"is_buyer_maker", Kind::boolean},
                      {"received_at", Kind::time}});
}

inline void put_trade(BatchWriter& out, const Trade& trade) {
  char symbol[16];
  std::snprintf(symbol, sizeof symbol, "SYM%03dUSDT", trade.symbol);
  out.text(0, "binance");
  out.text(1, symbol);
  out.whole(2, trade.ts);
  out.number(3, trade.price);
  out.number(4, trade.qty);
  out.whole(5, trade.id);
  out.boolean(6, trade.maker);
  out.whole(7, trade.ts + 3000);
}

inline void begin_copy(std::string& out) {
  out.assign("PGCOPY\n\377\r\n\0", 11);
  put(out, int32_t{0});
  put(out, int32_t{0});
}

inline void end_copy(std::string& out) {
  put(out, int16_t{-1});
}

}  // namespace tick::bench
