// The log behind tick.changes: which windows of which rollup each turn has changed, which windows have become
// final in it and which rows have gone, written by the turn itself under its transaction id. It holds no
// values: a reader takes these from the rollup, in the same snapshot. Two tables by turns, so that old
// entries go without being deleted one by one.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "rollup.hpp"
#include "state.hpp"

namespace tick::pg {

extern int tick_change_log_size;  // kB; at least half of it is kept

class ChangeLog {
 public:
  // Notes what the present turn has done.
  void changed(const Rollup& rollup, const Fold& fold);
  void changed(const Rollup& rollup, const std::set<Micros>& windows);
  void closed(const Rollup& rollup, const std::vector<Micros>& windows);
  void gone(const Rollup& rollup, const std::vector<GoneRow>& rows);
  // Forgets what was noted.
  void clear() { entries_.clear(); }
  // Writes what was noted, as of a turn that has started at `turn`. Returns the turn's token, 0 = nothing was
  // noted. Inside SPI. Throws.
  int64_t write(TimestampTz turn);

 private:
  enum class Kind : char { changed = 'c', final = 'f', gone = 'g' };
  struct Entry {
    int rollup;
    Micros lo, hi;
    Kind kind;
    const char* key;  // JSON, of a row that has gone
  };
  std::vector<Entry> entries_;
};

// Nobody goes on from a token that a rollup has now: its rows have gone, and the log does not tell which.
// Turns must be stopped. Throws nothing, ereport.
void forget_changes(int rollup);

// A transaction of its own between turns: when the table that is written is half of tick.change_log_size, the
// other one is emptied, if nobody reads it, and written from then on. Throws PgError.
void rotate_changes();

}  // namespace tick::pg
