// What the worker does between turns: makes the partitions of a source ahead of time and moves rows out of
// the attic into them, drops what retention lets go of, and the old windows of rollups. Each step is a short
// transaction of its own that takes its locks only if they are to be had at once, so no writer waits for it;
// what is locked is tried again. Whatever stands in the way is told in tick.sources.trouble and the log.
#pragma once

#include <map>
#include <string>

#include "rollup.hpp"
#include "source.hpp"

namespace tick::pg {

// Refuses settings that could not be kept.
void check_retention(const SourceSettings* source);
void check_window_retention(const Interval* retention, bool windowed);

class Retention {
 public:
  // Does what is due, for some milliseconds at most. Outside a transaction. Returns true if some source has
  // settings to keep, so that the worker is needed without rollups.
  bool run();
  // True if there is more to do at once.
  bool more() const { return next_ <= GetCurrentTimestamp(); }

 private:
  struct Wanted;
  enum class Outcome { nothing, done, locked, waiting };
  // Making and dropping partitions: trouble with one must not stop the other.
  struct Lane {
    TimestampTz due = 0;
    TimestampTz locked_since = 0;
    std::string trouble;
  };
  struct State {
    Lane making, dropping;
    TimestampTz attic_due = 0;
    std::string told;
  };
  void look();
  void keep(const Wanted& wanted, Lane& lane);
  Outcome step(const Wanted& wanted, bool dropping, std::string& trouble);
  bool covered(Oid source, AttrNumber attribute, Micros hi);
  void tell(Oid source);
  void look_at_rollups();
  enum class Dropped { nothing, some, all };
  Dropped drop_windows(int32 rollup);
  Dropped drop_windows_before(const Rollup& rollup, Micros goal);

  TimestampTz next_ = 0;
  bool needed_ = false;
  std::map<Oid, State> sources_;
  std::map<int32, TimestampTz> dropped_at_;  // of rollups with a retention: when windows were dropped
};

}  // namespace tick::pg
