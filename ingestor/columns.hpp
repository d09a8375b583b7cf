// Which columns of a table get what of a tick, and as which type: by their own names, or as told for a table
// that somebody has already. Hides the types, their binary form and their place in a batch for tick.ingest.
// Promises that a table which cannot take ticks is refused with the name of the column that does not fit.
#pragma once

#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/batch.hpp"
#include "database.hpp"
#include "feed.hpp"

namespace tick::ingest {

// Something only a human can cure (no such table, unsupported column type, another writer holds the
// position).
class FatalError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Column -> what it gets, in the order told. Empty: what has the name of a field gets it.
using ColumnMap = std::vector<std::pair<std::string, std::string>>;

// "event_time=ts,timestamp=ts_ms,volume=qty"; nothing and a mistake when that cannot be.
std::optional<ColumnMap> parse_column_map(std::string_view text, std::string& mistake);
std::string show_column_map(const ColumnMap& map);

class TableColumns {
 public:
  // Looks at the table; throws FatalError when it is not there or cannot take ticks.
  void open(Database& database, const std::string& table, const ColumnMap& map);

  const std::string& table() const { return table_; }  // with its schema
  const std::string& list() const { return list_; }    // the columns, as SQL
  const std::string& time() const { return time_; }    // the first column that gets ts; "" = none does
  std::string column(std::string_view field) const;    // the same for any, as SQL

  // Rows for COPY .. (FORMAT binary), or for tick.ingest. `exchange` is for ticks that name none.
  void copy(std::span<const Tick> ticks, std::string_view exchange, std::string& out) const;
  void batch(std::span<const Tick> ticks, std::string_view exchange, std::string& out);

 private:
  struct Column {
    std::string name;
    std::string quoted;
    unsigned type = 0;
    int field = 0;
  };
  void put(const Tick& tick, std::string_view exchange, const Column& column, std::string& out) const;

  std::string table_;
  std::string list_;
  std::string time_;
  std::vector<Column> columns_;
  std::optional<BatchWriter> writer_;
};

}  // namespace tick::ingest
