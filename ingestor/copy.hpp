// The only writer of ticks: tick.ingest, or binary COPY where that refuses, and the feed's position in one
// transaction, exactly once.
// A commit has three outcomes. When the connection breaks after the last byte was handed over, the outcome is
// in doubt: the writer reconnects, waits until the old server process is gone (an advisory lock that it
// held), asks the database for the position, and sends the batch again only if it is not in. One Writer = one
// connection = one (feed, connection) position; not thread safe.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "columns.hpp"
#include "database.hpp"
#include "feed.hpp"
#include "link.hpp"
#include "partitions.hpp"
#include "position.hpp"
#include "stats.hpp"

struct pg_result;

namespace tick::ingest {

enum class Outcome { committed, not_committed, in_doubt };

struct WriterOptions {
  std::string database;
  std::string table;
  ColumnMap columns;  // of the table; empty: by their names
  std::string feed;
  std::string connection;
  std::string exchange;
  std::size_t partitions_ahead = 2;
  bool replay = false;      // position is a record number instead of ids
  bool by_index = false;    // ids are no sequence: a unique index of the table keeps out what comes twice
  bool marks = false;       // and the position tells until when nothing is missing (recovery.hpp)
  bool in_seconds = false;  // and some have their time in whole seconds (Feed::history_in_seconds)
};

class Writer final : public Link {
 public:
  Writer(WriterOptions options, Stats& stats, const std::atomic<bool>& abandon);

  // Stores where a replay begins, before its first row.
  void begin_at(std::uint64_t record);
  // What is committed; from any thread.
  Position position() const;

  // Returns when every tick of the batch is committed once: now, or by an earlier run.
  void write(std::vector<Tick>& batch);

 private:
  struct Attempt {
    Outcome outcome = Outcome::not_committed;
    std::string sqlstate;
    std::string message;
    bool row_refused = false;
    std::size_t rows = 0;  // written, when committed: the table's own dedup may leave some out
  };

  void set_up() override;
  void read_table();
  void read_position();
  std::string one_at_a_time() const;
  std::string once_by_second();
  void commit(std::span<const Tick> ticks);
  Attempt attempt(std::span<const Tick> ticks, const Position& next);
  Attempt attempt_copy(std::span<const Tick> ticks, const Position& next);
  std::optional<Attempt> attempt_fast(std::span<const Tick> ticks, const Position& next);
  void note_error(Attempt& attempt, const pg_result* result) const;
  void conclude(Attempt& attempt, bool committed, bool handed_over);
  Position next_position(std::span<const Tick> ticks) const;
  bool already_in(const Tick& tick) const;
  bool counts(const Tick& tick) const { return tick.has_id && !options_.by_index; }
  void account(std::span<const Tick> ticks, const Position& next, std::size_t rows);
  void report_refused(const Tick& tick, const std::string& message);

  WriterOptions options_;
  DayPartitions partitions_;
  TableColumns columns_;
  std::string copy_sql_;
  bool fast_ = true;       // tick.ingest takes this table's rows, as far as is known
  bool prepared_ = false;  // on this connection
  std::string table_name_;
  std::string session_;
  std::uint64_t batch_ = 0;   // last committed batch of this session
  mutable std::mutex guard_;  // of committed_, which this thread alone changes
  Position committed_;
  Position accepted_;  // the ids that were let through, committed or on their way
  std::unordered_map<std::string, std::uint64_t> dropped_;
  std::string buffer_;
  std::uint64_t refused_in_a_row_ = 0;
};

}  // namespace tick::ingest
