// tick.ingest, binary COPY, commit, in-doubt resolution; see copy.hpp.
#include "copy.hpp"

#include <libpq-fe.h>

#include <algorithm>
#include <random>

#include "log.hpp"
#include "number.hpp"

namespace tick::ingest {

namespace {

constexpr std::uint64_t refused_limit = 100;

std::string random_session() {
  std::random_device device;
  char text[24];
  std::snprintf(text, sizeof text, "%08x%08x", device(), device());
  return text;
}

// Errors that belong to a row, not to the moment: sending it again will not help. "No partition found" has
// the code of a violated CHECK but names no constraint; its cure is a partition.
bool row_error(const PGresult* result) {
  const char* state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const std::string_view code = state == nullptr ? "" : state;
  if (code == "23514" && PQresultErrorField(result, PG_DIAG_CONSTRAINT_NAME) == nullptr) return false;
  return code.starts_with("22") || code.starts_with("23") || code.starts_with("P0");
}

Timestamp now() {
  return std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now());
}

}  // namespace

Writer::Writer(WriterOptions options, Stats& stats, const std::atomic<bool>& abandon)
    : Link(options.database, options.feed, options.connection, stats, abandon),
      options_(std::move(options)),
      session_(random_session()) {}

// ---- connecting

void Writer::set_up() {
  prepared_ = false;
  fast_ = !options_.by_index;
  read_table();
  read_position();
}

void Writer::read_table() {
  columns_.open(database(), options_.table, options_.columns);
  table_name_ = columns_.table();
  const std::string& list = columns_.list();
  copy_sql_ = "COPY " + table_name_ + " (" + list + ") FROM STDIN (FORMAT binary)";
  if (options_.by_index) {
    database().run("CREATE TEMP TABLE tick_stage ON COMMIT DELETE ROWS AS SELECT " + list + " FROM " +
                   table_name_ + " WITH NO DATA");
    copy_sql_ = "COPY pg_temp.tick_stage (" + list + ") FROM STDIN (FORMAT binary); " +
                (options_.in_seconds ? one_at_a_time() : "") + "INSERT INTO " + table_name_ + " (" + list +
                ") SELECT " + list + " FROM " +
                (options_.in_seconds ? once_by_second() : "pg_temp.tick_stage") + " ON CONFLICT DO NOTHING";
  }
  partitions_.open(database(), table_name_, columns_.time());
}

// No index tells that two rows are one trade when only one of them has its time in full: of several that
// write such trades each must see the rows of the one before.
std::string Writer::one_at_a_time() const {
  return "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended(" +
         database().literal(table_name_) + ", 7716)); ";
}

// What is staged, without the trades that the table has: one whose time is in whole seconds there and in full
// here is the same, and the other way round.
std::string Writer::once_by_second() {
  const std::string ts = columns_.column("ts");
  const std::string id = columns_.column("trade_id");
  if ((ts.empty() || id.empty()) && !options_.marks) return "pg_temp.tick_stage";
  if (ts.empty() || id.empty())
    throw FatalError("table " + table_name_ + " needs columns that get ts and trade_id: missing trades of " +
                     feed_ + " are known by them; or repair.enabled = false");
  // The rows around each are found by the unique index, whatever the planner thinks of an empty stage.
  for (const char* setting : {"enable_hashjoin", "enable_mergejoin"})
    database().run(std::string("SET ") + setting + " = off");
  std::string keys = id;
  std::string same = "t." + id + " = s." + id;
  for (const char* field : {"symbol", "exchange"})
    if (const auto column = columns_.column(field); !column.empty()) {
      keys += ", " + column;
      same += " AND t." + column + " = s." + column;
    }
  const std::string second = "date_trunc('second', s." + ts + ")";
  return "(SELECT DISTINCT ON (" + keys + ") * FROM pg_temp.tick_stage ORDER BY " + keys + ", " + ts +
         " DESC) s WHERE NOT EXISTS (SELECT FROM " + table_name_ + " t WHERE " + same + " AND t." + ts +
         " >= " + second + " AND t." + ts + " <= CASE WHEN s." + ts + " = " + second + " THEN " + second +
         " + interval '999999 us' ELSE " + second + " END)";
}

void Writer::read_position() {
  Position stored = stored_position().value_or(Position{});
  if (!stored.session.empty() && stored.table != table_name_) {
    log::warn("the stored position belongs to table " + stored.table + ": starting afresh for " +
              table_name_);
    stored = Position{};
  }
  if (opened() && stored.session != session_ && batch_ > 0)
    log::error(
        stored.session.empty()
            ? "the stored position has vanished"
            : "another session wrote this position meanwhile: ticks in memory that are older than its last "
              "ids cannot be told from duplicates and are dropped; give each ingestor its own --connection");
  const bool lost = stored.session == session_ && stored.batch < batch_;
  if (lost)
    log::error("the database lost " + std::to_string(batch_ - stored.batch) +
               " batches that it had confirmed (synchronous_commit off?)");
  // Ids on their way stay accepted; what somebody else wrote, or nobody has, is judged anew.
  if (!opened() || lost || stored.session != session_) accepted_ = stored;
  const std::lock_guard hold(guard_);
  committed_ = std::move(stored);
}

void Writer::begin_at(std::uint64_t record) {
  Position next = next_position({});
  next.record = record;
  const std::string parameters[] = {options_.feed, options_.connection, to_json(next)};
  database().query("SELECT tick.feed($1, $2, $3::jsonb)", parameters);
  batch_ = next.batch;
  const std::lock_guard hold(guard_);
  committed_ = accepted_ = next;
}

Position Writer::position() const {
  const std::lock_guard hold(guard_);
  return committed_;
}

// ---- writing

bool Writer::already_in(const Tick& tick) const {
  if (options_.replay) return tick.record <= committed_.record;
  if (!counts(tick)) return false;
  return committed_.has(tick.symbol.view(), tick.id);
}

Position Writer::next_position(std::span<const Tick> ticks) const {
  Position next = committed_;
  next.session = session_;
  next.batch = batch_ + 1;
  next.table = table_name_;
  for (const auto& tick : ticks) {
    if (options_.replay) {
      next.record = std::max(next.record, tick.record);
      continue;
    }
    if (counts(tick)) next.take(tick.symbol.view(), tick.id, tick.ts);
    if (options_.marks) {
      const auto [mark, first] = next.times.try_emplace(std::string(tick.symbol.view()), tick.ts);
      if (tick.whole) mark->second = std::max(mark->second, tick.ts);
    }
  }
  return next;
}

void Writer::write(std::vector<Tick>& batch) {
  std::string key;
  const auto seen = [&](const Tick& tick) {
    if (options_.replay) return tick.record <= committed_.record;
    if (!counts(tick)) return false;
    if (accepted_.take(tick.symbol.view(), tick.id, tick.ts)) return false;
    key = tick.symbol.view();
    if (dropped_[key]++ == 0)
      log::info(key + ": id " + std::to_string(tick.id) +
                " came a second time; such ticks are dropped as duplicates");
    return true;
  };
  stats_.duplicates += std::erase_if(batch, seen);
  commit(batch);
}

// Recursion depth is log2(batch): halves are taken only to find the row that the database will never accept.
void Writer::commit(std::span<const Tick> ticks) {
  std::vector<Tick> kept;
  while (!ticks.empty()) {
    const Position next = next_position(ticks);
    Attempt result;
    try {
      if (!database().alive()) throw DatabaseError("closed by the server", "", true);
      result = attempt(ticks, next);
    } catch (const DatabaseError& error) {
      result = {Outcome::not_committed, error.sqlstate(), error.what(), false};
    }
    if (result.outcome == Outcome::committed) return account(ticks, next, result.rows);

    if (result.outcome == Outcome::in_doubt || !database().alive()) {
      reconnect(result.message);
      if (committed_.session == session_ && committed_.batch >= next.batch) {
        log::info("batch " + std::to_string(next.batch) + " was committed before the connection broke");
        return account(ticks, next, ticks.size());
      }
      if (result.outcome == Outcome::in_doubt)
        log::info("batch " + std::to_string(next.batch) + " was not committed, sending it again");
      std::vector<Tick> rest;  // `ticks` may already be a view of `kept`
      std::copy_if(ticks.begin(), ticks.end(), std::back_inserter(rest),
                   [&](const Tick& tick) { return !already_in(tick); });
      kept.swap(rest);
      ticks = kept;
      continue;
    }

    if (result.row_refused) {
      if (ticks.size() > 1) {
        const auto half = ticks.size() / 2;
        commit(ticks.first(half));
        return commit(ticks.subspan(half));
      }
      if (++refused_in_a_row_ <= refused_limit) return report_refused(ticks[0], result.message);
      log::error("the database refuses every row: " + result.message);
      pause();
      continue;
    }

    complain("batch not committed, trying again: " + result.message + " (" + result.sqlstate + ")");
    pause();
    partitions_.forget();
    if (result.sqlstate.starts_with("42") || result.sqlstate.starts_with("0A")) look_again();
  }
}

Writer::Attempt Writer::attempt(std::span<const Tick> ticks, const Position& next) {
  std::int64_t last_day = -1;
  std::int64_t newest_day = -1;
  for (const auto& tick : ticks) {
    const std::int64_t day = day_of(tick.ts);
    if (day == last_day) continue;
    partitions_.ensure(database(), day);
    last_day = day;
    newest_day = std::max(newest_day, day);
  }
  if (!options_.replay && newest_day >= day_of(now()) - 1)
    for (std::size_t ahead = 1; ahead <= options_.partitions_ahead; ++ahead)
      partitions_.ensure(database(), day_of(now()) + static_cast<std::int64_t>(ahead));

  if (fast_)
    if (auto done = attempt_fast(ticks, next)) return *done;
  return attempt_copy(ticks, next);
}

void Writer::note_error(Attempt& attempt, const pg_result* result) const {
  const char* message = result == nullptr ? PQerrorMessage(database().handle()) : nullptr;
  if (result != nullptr) {
    if (const char* state = PQresultErrorField(result, PG_DIAG_SQLSTATE)) attempt.sqlstate = state;
    attempt.row_refused = row_error(result);
    message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    if (message == nullptr) message = PQresultErrorMessage(result);
  }
  if (attempt.message.empty() && message != nullptr) attempt.message = one_line(message);
  const char* detail = result == nullptr ? nullptr : PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
  if (detail != nullptr) attempt.message += std::string(": ") + detail;
}

void Writer::conclude(Attempt& attempt, bool committed, bool handed_over) {
  if (committed) {
    attempt.outcome = Outcome::committed;
  } else if (PQstatus(database().handle()) != CONNECTION_OK) {
    note_error(attempt, nullptr);
    attempt.outcome = handed_over ? Outcome::in_doubt : Outcome::not_committed;
  } else if (PQtransactionStatus(database().handle()) != PQTRANS_IDLE) {
    database().run("ROLLBACK");
  }
}

// Rows and position in one statement: one round trip. Nothing: this table's rows must go by COPY.
std::optional<Writer::Attempt> Writer::attempt_fast(std::span<const Tick> ticks, const Position& next) {
  PGconn* connection = database().handle();
  static constexpr const char* statement = "tick_ingest";
  Attempt done;
  const auto refused = [&](const PGresult* result) {
    const char* state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const std::string_view code = state == nullptr ? "" : state;
    if (code != "0A000" && code != "42883") return false;  // 42883: an older extension
    fast_ = false;
    log::info(std::string("rows go by COPY: ") + PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
    return true;
  };
  if (!prepared_) {
    const std::string sql =
        "SELECT i.inserted, tick.feed($1, $2, $3::jsonb) FROM tick.ingest($4::regclass, $5) AS i";
    PGresult* result = PQprepare(connection, statement, sql.c_str(), 0, nullptr);
    const bool good = PQresultStatus(result) == PGRES_COMMAND_OK;
    const bool by_copy = !good && refused(result);
    if (!good && !by_copy) note_error(done, result);
    PQclear(result);
    if (by_copy) return std::nullopt;
    if (!good) {
      conclude(done, false, false);
      return done;
    }
    prepared_ = true;
  }
  columns_.batch(ticks, options_.exchange, buffer_);
  const std::string position = to_json(next);
  const char* const values[] = {options_.feed.c_str(), options_.connection.c_str(), position.c_str(),
                                table_name_.c_str(), buffer_.data()};
  const int lengths[] = {0, 0, 0, 0, static_cast<int>(buffer_.size())};
  constexpr int formats[] = {0, 0, 0, 0, 1};
  if (!PQsendQueryPrepared(connection, statement, 5, values, lengths, formats, 0)) {
    note_error(done, nullptr);
    conclude(done, false, false);
    return done;
  }
  bool answered = false;
  bool failed = false;
  bool by_copy = false;
  while (PGresult* result = PQgetResult(connection)) {
    if (PQresultStatus(result) == PGRES_TUPLES_OK) {
      answered = true;
      done.rows = static_cast<std::size_t>(parse_integer(PQgetvalue(result, 0, 0)).value_or(0));
    } else {
      failed = true;
      by_copy = refused(result);
      if (!by_copy) note_error(done, result);
    }
    PQclear(result);
    if (PQstatus(connection) != CONNECTION_OK) break;
  }
  if (by_copy) return std::nullopt;
  // The answer comes before the commit, which may fail; idle and without error is what means that it is done.
  // From the first byte on the server may commit at any moment, whatever this side gets to hear.
  const bool idle = PQstatus(connection) == CONNECTION_OK && PQtransactionStatus(connection) == PQTRANS_IDLE;
  conclude(done, answered && !failed && idle, true);
  return done;
}

Writer::Attempt Writer::attempt_copy(std::span<const Tick> ticks, const Position& next) {
  columns_.copy(ticks, options_.exchange, buffer_);
  // One message from BEGIN to COMMIT: the whole batch costs two round trips.
  const std::string sql = "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT tick.feed(" +
                          database().literal(options_.feed) + ", " + database().literal(options_.connection) +
                          ", " + database().literal(to_json(next)) + "); " + copy_sql_ + "; COMMIT";
  PGconn* connection = database().handle();
  Attempt done;
  bool handed_over = false;
  bool committed = false;
  if (!PQsendQuery(connection, sql.c_str())) {
    note_error(done, nullptr);
    return done;
  }
  while (PGresult* result = PQgetResult(connection)) {
    const auto status = PQresultStatus(result);
    if (status == PGRES_COPY_IN && !handed_over) {
      const bool sent = PQputCopyData(connection, buffer_.data(), static_cast<int>(buffer_.size())) == 1;
      // From here on the server may commit at any moment, whatever this side gets to hear.
      handed_over = sent;
      if (!sent || PQputCopyEnd(connection, nullptr) != 1) note_error(done, nullptr);
      if (PQstatus(connection) != CONNECTION_OK || !sent) {
        PQclear(result);
        break;
      }
    } else if (status == PGRES_COMMAND_OK) {
      const std::string_view tag = PQcmdStatus(result);
      if (tag == "COMMIT") committed = true;
      if (tag.starts_with("COPY ") || tag.starts_with("INSERT "))
        done.rows = static_cast<std::size_t>(parse_integer(tag.substr(tag.rfind(' ') + 1)).value_or(0));
    } else if (status != PGRES_TUPLES_OK) {
      note_error(done, result);
    }
    PQclear(result);
    if (PQstatus(connection) != CONNECTION_OK) break;
  }
  conclude(done, committed, handed_over);
  return done;
}

void Writer::account(std::span<const Tick> ticks, const Position& next, std::size_t rows) {
  {
    const std::lock_guard hold(guard_);
    committed_ = next;
  }
  batch_ = next.batch;
  works();
  refused_in_a_row_ = 0;
  stats_.rows += rows;
  stats_.duplicates += ticks.size() - std::min(rows, ticks.size());
  ++stats_.batches;
  const std::int64_t lag = (now() - ticks.front().received).count();
  stats_.lag_us = lag;
  stats_.committed_at_us = std::chrono::duration_cast<std::chrono::microseconds>(
                               std::chrono::steady_clock::now().time_since_epoch())
                               .count();
  if (lag > stats_.max_lag_us) stats_.max_lag_us = lag;
}

void Writer::report_refused(const Tick& tick, const std::string& message) {
  const std::uint64_t count = ++stats_.refused;
  if (counts(tick) && !options_.replay) {  // nobody need fetch it again
    const std::lock_guard hold(guard_);
    committed_.take(tick.symbol.view(), tick.id, tick.ts);
  }
  if (count <= 20 || count % 1000 == 0)
    log::error("row refused by the database: " + message + " [" + std::string(tick.symbol.view()) + " id " +
               std::to_string(tick.id) + " ts " + format_time(tick.ts) + " price " +
               std::to_string(tick.price) + "]");
}

}  // namespace tick::ingest
