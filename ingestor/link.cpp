// Connecting, waiting and locking; see link.hpp.
#include "link.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <thread>

#include "columns.hpp"
#include "log.hpp"

namespace tick::ingest {

namespace {
constexpr auto start_patience = std::chrono::seconds(60);
constexpr auto lock_patience = std::chrono::seconds(30);
constexpr auto complain_every = std::chrono::minutes(1);
}  // namespace

Link::Link(std::string database, std::string feed, std::string connection, Stats& stats,
           const std::atomic<bool>& abandon)
    : feed_(std::move(feed)),
      connection_(std::move(connection)),
      stats_(stats),
      database_name_(std::move(database)),
      abandon_(abandon) {}

Link::~Link() = default;

void Link::connect() {
  database_.reset();
  database_ = std::make_unique<Database>(database_name_);
  lock();
  set_up();
}

// Waits for the position's lock: for ever when it was held before, otherwise up to half a minute.
void Link::lock() {
  // The server must notice soon that this process is gone: until then it holds the position's lock.
  for (const char* setting : {"tcp_keepalives_idle = 10", "tcp_keepalives_interval = 5",
                              "tcp_keepalives_count = 3", "client_connection_check_interval = '1s'"}) {
    try {
      database_->run(std::string("SET ") + setting);
    } catch (const DatabaseError& error) {
      if (error.connection_lost()) throw;  // otherwise: the server's platform cannot do it
    }
  }
  const std::string key = feed_ + "/" + connection_;
  const auto start = std::chrono::steady_clock::now();
  auto warn_at = start + std::chrono::seconds(2);
  for (;;) {
    const std::string parameters[] = {key};
    const auto got =
        database_->query("SELECT pg_catalog.pg_try_advisory_lock(hashtextextended($1, 7715))", parameters);
    if (*got.at(0).at(0) == "t") return;
    const auto time = std::chrono::steady_clock::now();
    if (time > warn_at || (!opened_ && time - start > lock_patience)) {
      const auto holder = database_->query(
          "SELECT string_agg(l.pid::text, ', ') FROM pg_catalog.pg_locks l, (SELECT hashtextextended($1, "
          "7715) AS key) k"
          " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
          " AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
          " AND l.classid::int8 = ((k.key >> 32) & 4294967295) AND l.objid::int8 = (k.key & 4294967295)",
          parameters);
      const std::string text = "position " + key +
                               " is being written by another connection (server process " +
                               holder.at(0).at(0).value_or("unknown") + ")";
      if (!opened_ && time - start > lock_patience)
        throw FatalError(text + "; give this ingestor a --connection name of its own or stop the other one");
      log::warn(text + ", waiting");
      warn_at = time + std::chrono::seconds(10);
    }
    if (abandon_) throw Abandoned();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

std::optional<Position> Link::stored_position() {
  std::vector<Row> rows;
  try {
    const std::string parameters[] = {feed_, connection_};
    rows = database_->query("SELECT tick.position($1, $2)", parameters);
  } catch (const DatabaseError& error) {
    if (error.sqlstate() == "3F000" || error.sqlstate() == "42883")
      throw FatalError("extension pg_tick is not in this database; `tick-ingest init` creates it");
    throw;
  }
  if (!rows.at(0).at(0)) return std::nullopt;
  auto stored = parse_position(*rows[0][0]);
  if (!stored)
    throw FatalError("the stored position of " + feed_ + "/" + connection_ +
                     " cannot be read: " + *rows[0][0]);
  return stored;
}

void Link::pause() {
  static thread_local std::minstd_rand random(std::random_device{}());
  const double base = std::min(2.0, 0.05 * std::pow(2.0, std::min(failures_, 10)));
  ++failures_;
  const double seconds = base * std::uniform_real_distribution<>(0.5, 1.0)(random);
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < until) {
    if (abandon_) throw Abandoned();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  if (abandon_) throw Abandoned();
}

void Link::open() {
  const auto start = std::chrono::steady_clock::now();
  std::string last;
  for (;;) {
    try {
      connect();
      opened_ = true;
      failures_ = 0;
      return;
    } catch (const DatabaseError& error) {
      if (!error.connection_lost()) throw FatalError(error.what());
      if (std::chrono::steady_clock::now() - start > start_patience) throw FatalError(error.what());
      if (last != error.what())
        log::warn(std::string("cannot connect to the database, trying again: ") + error.what());
      last = error.what();
    }
    pause();
  }
}

void Link::reconnect(const std::string& why) {
  log::warn("database connection lost: " + why);
  ++stats_.database_reconnects;
  look_again();
  log::info("database connection is back");
}

void Link::works() {
  failures_ = 0;
  if (!complaint_.empty()) log::info("the database takes batches again");
  complaint_.clear();
}

void Link::complain(const std::string& why) {
  const auto now = std::chrono::steady_clock::now();
  if (why == complaint_ && now - complained_ < complain_every) return;
  log::warn(why);
  complaint_ = why;
  complained_ = now;
}

void Link::look_again() {
  std::string last;
  for (;;) {
    try {
      connect();
      return;
    } catch (const FatalError& error) {
      if (last != error.what()) log::error(error.what());
      last = error.what();
    } catch (const DatabaseError& error) {
      if (last != error.what()) log::warn(std::string("still waiting for the database: ") + error.what());
      last = error.what();
    }
    pause();
  }
}

}  // namespace tick::ingest
