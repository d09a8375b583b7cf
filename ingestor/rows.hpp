// Ticks from rows that name their columns: CSV lines and flat JSON objects (also the trade objects of
// exchanges' REST answers and of ccxt, whose raw `info` is preferred). Columns are found by name, by the
// layout of Binance's header-less dumps, or as told. Pure text -> tick; a bad row is a value.
#pragma once

#include <array>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "feed.hpp"

namespace tick::ingest {

enum class Role { symbol, ts, price, qty, id, maker, side, exchange, received, name };
constexpr std::size_t role_count = 10;

struct RowOptions {
  std::string symbol;  // for rows that name none
  std::optional<std::chrono::minutes>
      offset;                           // from UTC, of times that tell no zone; they are refused without it
  std::map<Role, std::string> columns;  // role -> column name or 1-based number; overrides the search by name
  std::string items;                    // JSON pointer to the objects of a document (JsonItems)
};

// "ts=event_time,price=px,qty=3" -> columns; nothing and a mistake when a role is not known.
std::optional<std::map<Role, std::string>> parse_columns(std::string_view text, std::string& mistake);

// Splits one line (quotes doubled inside quotes); false when a quote is left open.
bool split_csv(std::string_view line, char delimiter, std::vector<std::string>& fields);

class CsvRows {
 public:
  explicit CsvRows(RowOptions options) : options_(std::move(options)) {}
  // The first line decides the layout (a header is `ignored`); throws std::runtime_error when no layout fits.
  Decoded decode(std::string_view line, Timestamp received, std::vector<Tick>& out);

 private:
  void choose_layout();

  RowOptions options_;
  std::vector<std::string> fields_;
  std::array<std::optional<std::size_t>, role_count> at_{};
  char delimiter_ = ',';
  bool started_ = false;
  bool header_ = false;
};

// A document that holds many rows: the elements of the array at options.items, or the members of the object
// there. Columns are JSON pointers from the row (/price), from the document (^/info/time), or @key.
class JsonItems {
 public:
  explicit JsonItems(RowOptions options);
  ~JsonItems();
  Decoded decode(std::string_view text, Timestamp received, std::vector<Tick>& out);

 private:
  struct Scratch;
  RowOptions options_;
  std::unique_ptr<Scratch> scratch_;
};

class JsonRows {
 public:
  explicit JsonRows(RowOptions options);
  ~JsonRows();
  Decoded decode(std::string_view text, Timestamp received, std::vector<Tick>& out);

 private:
  struct Scratch;
  RowOptions options_;
  std::unique_ptr<Scratch> scratch_;
};

}  // namespace tick::ingest
