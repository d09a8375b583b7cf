// What is missing in a table whose source keeps sets of ids (tick.add_source with dedup_id): the holes of
// tick.gaps, whoever wrote the rows around them. Asks on a connection of its own; not thread safe.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "database.hpp"
#include "position.hpp"

namespace tick::ingest {

class Gaps {
 public:
  struct Answer {
    enum { holes, no_ids, unknown } what = unknown;  // no_ids: the table's source keeps none
    Holes by_symbol;
  };

  // `exchange` is what this feed writes into that column.
  Gaps(std::string database, std::string table, std::string exchange);

  // `unknown` while the database is away.
  Answer read();
  // Says in tick.gaps why one of these holes stays.
  void explain(const std::string& symbol, const Hole& hole, const std::string& reason);

 private:
  using Clock = std::chrono::steady_clock;

  std::string database_name_;
  std::string table_;
  std::string exchange_;
  std::unique_ptr<Database> database_;
  bool has_ids_ = false;
  Clock::time_point look_again_{};
  std::string last_error_;
  std::map<std::string, std::string> keys_;  // by symbol, as tick.gaps has them
};

}  // namespace tick::ingest
