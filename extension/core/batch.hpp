// Rows on their way into a table, column by column: what the ingestor writes and tick.ingest takes apart.
// Hides the bytes. Promises that what has been read is whole: every view lies within the bytes given, every
// word is in its dictionary; anything else is an Error that says where.
//   "TB", version, 0, rows (u32), columns (u16); of each column: name (u16 length, bytes), kind (u8),
//   nulls (u8: 0 or 1; then a bit for each row), then by kind
//     boolean  a byte for each row          whole, number, time   8 bytes for each row
//     text     a length (u32) for each row, then the bytes of all
//     words    count (u32), that many lengths (u32), their bytes; the size of an index (u8: 1, 2 or 4), then
//              an index for each row
//   Numbers are little-endian; what a NULL row has in its place means nothing.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tick {

struct BatchColumn {
  enum class Kind : unsigned char {
    boolean = 1,
    whole,   // integer
    number,  // float8
    time,    // microseconds since 2000-01-01 UTC; the least and greatest are -infinity and infinity
    text,
    words  // text of which there are few different ones
  };

  std::string_view name;
  Kind kind = Kind::boolean;
  const unsigned char* nulls = nullptr;  // nullptr: there are none
  const unsigned char* data = nullptr;   // a value, or an index, for each row
  unsigned width = 0;                    // bytes of one
  std::vector<std::string_view> texts;   // of each row, or the dictionary

  bool is_null(size_t row) const { return nulls != nullptr && (nulls[row / 8] >> (row % 8) & 1) != 0; }
  // Of whatever has a width: sign-extended is what has 8 bytes.
  int64_t word(size_t row) const;
  double number(size_t row) const;
  // The words of some rows; of a number its bits.
  void read(size_t from, size_t count, int64_t* into) const;
};

inline constexpr uint32_t most_batch_rows = 1'000'000;

struct Batch {
  uint32_t rows = 0;
  std::vector<BatchColumn> columns;
};

// Views into `bytes`. Throws Error.
Batch read_batch(std::span<const unsigned char> bytes);

// Makes a batch: for each row every column is given once, in any order.
class BatchWriter {
 public:
  struct Column {
    std::string name;
    BatchColumn::Kind kind;
  };
  explicit BatchWriter(std::vector<Column> columns);

  void null(size_t column);
  void boolean(size_t column, bool value);
  void whole(size_t column, int64_t value);  // also of times
  void number(size_t column, double value);
  void text(size_t column, std::string_view value);  // also of words

  size_t rows() const;
  // The bytes of all rows given; the writer is empty again. Throws Error if a column lacks a row.
  std::string finish();

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view key) const { return std::hash<std::string_view>{}(key); }
  };
  struct Filling {
    Column column;
    uint32_t rows = 0;
    bool has_nulls = false;
    std::string nulls, data, lengths;
    std::unordered_map<std::string, uint32_t, Hash, std::equal_to<>> words;
    std::string dictionary;
    std::vector<uint32_t> dictionary_lengths;
  };
  Filling& next(size_t column, bool null);
  void refuse(const Filling& filling) const;

  std::vector<Filling> filling_;
};

}  // namespace tick
