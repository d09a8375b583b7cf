// Day partitions of the target table, made when a tick's day is first met: in a short transaction of its own
// with a lock timeout, safe against a second ingestor. When a partition cannot be made (locked, not the
// owner, the day is covered by another one) the rows go wherever PostgreSQL routes them; nothing is held up.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "database.hpp"

namespace tick::ingest {

class DayPartitions {
 public:
  // The table is a (quoted) regclass text. Does nothing for tables not partitioned by a range of `time`
  // alone, the column that gets the ticks' time.
  void open(Database& database, const std::string& table, const std::string& time);
  void ensure(Database& database, std::int64_t day);
  // Look again at every day, also at those whose partition could not be made.
  void forget() { known_.clear(); }

 private:
  bool make(Database& database, std::int64_t day);

  bool managed_ = false;
  std::string oid_;
  std::string table_;
  std::string schema_;
  std::string name_;
  std::set<std::int64_t> known_;
};

}  // namespace tick::ingest
