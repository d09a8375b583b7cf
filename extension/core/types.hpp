// The values that every floor shares: a cell (one SQL value without PostgreSQL), a column of cells, and the
// program that says what a capture group folds. Knows nothing of PostgreSQL, clocks or I/O.
#pragma once

#ifdef POSTGRES_H
#error "the core must not see PostgreSQL headers: include core headers first, pg.hpp last"
#endif

#include <compare>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tick {

// Microseconds since 2000-01-01 00:00 UTC, PostgreSQL's own epoch.
using Micros = int64_t;
inline constexpr Micros minus_infinity = std::numeric_limits<int64_t>::min();
inline constexpr Micros plus_infinity = std::numeric_limits<int64_t>::max();

// How the core stores and orders a value. `word` and `bytes` are opaque images: equal if and only if their
// bits are.
enum class Type : uint8_t {
  boolean,
  int2,
  int4,
  int8,
  float4,
  float8,
  numeric,    // PostgreSQL's on-disk numeric without its varlena header
  text,       // bytes, ordered by TextOrder
  bpchar,     // as text; trailing blanks do not count
  date,       // days since 2000-01-01
  timestamp,  // Micros, with or without time zone
  bytes,
  word,
};

constexpr bool is_float(Type t) {
  return t == Type::float4 || t == Type::float8;
}
constexpr bool is_integer(Type t) {
  return t == Type::int2 || t == Type::int4 || t == Type::int8;
}
constexpr bool is_variable(Type t) {
  return t == Type::numeric || t == Type::text || t == Type::bpchar || t == Type::bytes;
}

// One value. Variable types point at bytes owned by the batch. float4 is kept as the double of equal value.
struct Cell {
  union {
    int64_t word;
    double real;
    const char* data;
  };
  uint32_t size;
  bool null;

  static Cell none() { return Cell{{0}, 0, true}; }
  static Cell of_word(int64_t w) { return Cell{{w}, 0, false}; }
  static Cell of_real(double d) {
    Cell c{{0}, 0, false};
    c.real = d;
    return c;
  }
  static Cell of_bytes(std::string_view s) {
    Cell c{{0}, static_cast<uint32_t>(s.size()), false};
    c.data = s.data();
    return c;
  }
  std::string_view view() const { return {data, size}; }
};

using Column = std::span<const Cell>;

// Orders text of a collation that is not byte order; the adapter supplies it. May throw tick::Error, nothing
// else.
using TextCompare = int (*)(std::string_view a, std::string_view b, uint32_t collation);

// One evaluated expression over the source's row. collation 0 = byte order.
struct Input {
  Type type;
  uint32_t collation = 0;
};

enum class ItemKind : uint8_t { count, sum, sum_sq, min, max, first, last };

// One partial aggregate. Numbers are indexes into Program::inputs; none = -1.
// count without value counts rows; every item skips rows whose filter is not true or whose value is NULL;
// first and last also skip rows whose order is NULL, and order by (order, seq with NULL lowest, value,
// bytes).
struct Item {
  ItemKind kind;
  int16_t value = -1;
  int16_t order = -1;
  int16_t seq = -1;
  int16_t filter = -1;
  friend bool operator==(const Item&, const Item&) = default;
};

// What one capture group folds. Immutable: a change is a new program with a new id.
struct Program {
  int64_t id = 0;
  std::vector<Input> inputs;
  std::vector<int16_t> keys;
  int16_t time = -1;        // input of type timestamp, -1 = no rollup of the group has a window
  Micros pane = 0;          // width of a pane on the grid of the epoch; 0 without time
  int16_t where = -1;       // boolean input
  std::vector<Item> items;  // items[0] counts the rows
  TextCompare compare_text = nullptr;
};

// For bpchar, whose trailing blanks do not count.
std::string_view without_trailing_blanks(std::string_view s);

// PostgreSQL's btree order of two non-NULL cells of one type (NaN greatest), then -0 < +0 and bytes: total.
int compare(const Input& type, const Cell& a, const Cell& b, TextCompare compare_text);

}  // namespace tick
