#include "batch.hpp"

#include <array>
#include <bit>

#include "error.hpp"

namespace tick {
namespace {

constexpr unsigned char batch_version = 1;
constexpr size_t most_columns = 1600;

[[noreturn]] void corrupted(const std::string& what) {
  throw Error{Error::Code::data_corrupted, "corrupted batch: " + what};
}

template <typename Number>
Number load(const unsigned char* from) {
  unsigned char bytes[sizeof(Number)];
  for (size_t i = 0; i < sizeof(Number); ++i)
    bytes[i] = from[std::endian::native == std::endian::little ? i : sizeof(Number) - 1 - i];
  return std::bit_cast<Number>(bytes);
}

template <typename Number>
void store(std::string& out, Number value) {
  const auto bytes = std::bit_cast<std::array<char, sizeof(Number)>>(value);
  if (std::endian::native == std::endian::little)
    out.append(bytes.begin(), bytes.end());
  else
    out.append(bytes.rbegin(), bytes.rend());
}

class Reader {
 public:
  explicit Reader(std::span<const unsigned char> bytes) : rest_(bytes) {}

  const unsigned char* take(uint64_t size, const std::string& what) {
    if (size > rest_.size()) corrupted("it ends within " + what);
    const unsigned char* at = rest_.data();
    rest_ = rest_.subspan(size);
    return at;
  }
  template <typename Number>
  Number take(const std::string& what) {
    return load<Number>(take(sizeof(Number), what));
  }
  bool empty() const { return rest_.empty(); }

  // Lengths, then the bytes of all.
  std::vector<std::string_view> take_texts(uint32_t count, const std::string& what) {
    const unsigned char* lengths = take(uint64_t{count} * 4, what);
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; ++i) total += load<uint32_t>(lengths + size_t{i} * 4);
    const auto* text = reinterpret_cast<const char*>(take(total, what));
    std::vector<std::string_view> texts;
    texts.reserve(count);
    for (uint32_t i = 0; i < count; ++i) {
      const auto length = load<uint32_t>(lengths + size_t{i} * 4);
      texts.emplace_back(text, length);
      text += length;
    }
    return texts;
  }

 private:
  std::span<const unsigned char> rest_;
};

void take_words(Reader& in, BatchColumn& column, uint32_t rows, const std::string& what) {
  const auto count = in.take<uint32_t>(what);
  column.texts = in.take_texts(count, what);
  column.width = in.take<unsigned char>(what);
  if (column.width != 1 && column.width != 2 && column.width != 4) corrupted("size of an index of " + what);
  column.data = in.take(uint64_t{rows} * column.width, what);
  for (uint32_t row = 0; row < rows; ++row)
    if (!column.is_null(row) && static_cast<uint64_t>(column.word(row)) >= count)
      corrupted("row " + std::to_string(row) + " of " + what + " is not in its dictionary");
}

}  // namespace

int64_t BatchColumn::word(size_t row) const {
  const unsigned char* at = data + row * width;
  switch (width) {
    case 1:
      return *at;
    case 2:
      return load<uint16_t>(at);
    case 4:
      return load<uint32_t>(at);
    default:
      return load<int64_t>(at);
  }
}

void BatchColumn::read(size_t from, size_t count, int64_t* into) const {
  const unsigned char* at = data + from * width;
  const auto each = [&]<typename Number>(Number) {
    for (size_t i = 0; i < count; ++i) into[i] = load<Number>(at + i * sizeof(Number));
  };
  switch (width) {
    case 1:
      return each(static_cast<unsigned char>(0));
    case 2:
      return each(uint16_t{0});
    case 4:
      return each(uint32_t{0});
    default:
      return each(int64_t{0});
  }
}

double BatchColumn::number(size_t row) const {
  return std::bit_cast<double>(word(row));
}

Batch read_batch(std::span<const unsigned char> bytes) {
  Reader in(bytes);
  const unsigned char* head = in.take(4, "its head");
  if (head[0] != 'T' || head[1] != 'B' || head[3] != 0) corrupted("it does not begin like one");
  if (head[2] != batch_version)
    corrupted("version " + std::to_string(head[2]) + ", known is " + std::to_string(batch_version));
  Batch batch;
  batch.rows = in.take<uint32_t>("its head");
  if (batch.rows > most_batch_rows)
    corrupted(std::to_string(batch.rows) + " rows, allowed are " + std::to_string(most_batch_rows));
  const auto columns = in.take<uint16_t>("its head");
  if (columns > most_columns) corrupted(std::to_string(columns) + " columns");
  for (uint16_t i = 0; i < columns; ++i) {
    BatchColumn& column = batch.columns.emplace_back();
    const std::string what = "column " + std::to_string(i + 1);
    const auto length = in.take<uint16_t>(what);
    column.name = {reinterpret_cast<const char*>(in.take(length, what)), length};
    const auto kind = in.take<unsigned char>(what);
    const auto nulls = in.take<unsigned char>(what);
    if (nulls > 1) corrupted("nulls of " + what);
    if (nulls == 1) column.nulls = in.take((uint64_t{batch.rows} + 7) / 8, what);
    column.kind = static_cast<BatchColumn::Kind>(kind);
    switch (column.kind) {
      case BatchColumn::Kind::boolean:
        column.width = 1;
        break;
      case BatchColumn::Kind::whole:
      case BatchColumn::Kind::number:
      case BatchColumn::Kind::time:
        column.width = 8;
        break;
      case BatchColumn::Kind::text:
        column.texts = in.take_texts(batch.rows, what);
        continue;
      case BatchColumn::Kind::words:
        take_words(in, column, batch.rows, what);
        continue;
      default:
        corrupted("kind " + std::to_string(kind) + " of " + what);
    }
    column.data = in.take(uint64_t{batch.rows} * column.width, what);
  }
  if (!in.empty()) corrupted("there is more after its end");
  return batch;
}

// ---- writing

BatchWriter::BatchWriter(std::vector<Column> columns) {
  for (Column& column : columns) {
    filling_.emplace_back();
    filling_.back().column = std::move(column);
  }
}

BatchWriter::Filling& BatchWriter::next(size_t column, bool null) {
  Filling& filling = filling_.at(column);
  const uint32_t row = filling.rows++;
  if (row % 8 == 0) filling.nulls.push_back(0);
  if (null) {
    filling.nulls.back() = static_cast<char>(filling.nulls.back() | 1 << (row % 8));
    filling.has_nulls = true;
  }
  return filling;
}

void BatchWriter::refuse(const Filling& filling) const {
  throw Error{Error::Code::internal, "column " + filling.column.name + " of a batch is of another kind"};
}

void BatchWriter::null(size_t column) {
  Filling& filling = next(column, true);
  switch (filling.column.kind) {
    case BatchColumn::Kind::boolean:
      filling.data.push_back(0);
      break;
    case BatchColumn::Kind::text:
    case BatchColumn::Kind::words:
      store<uint32_t>(filling.lengths, 0);
      break;
    default:
      store<int64_t>(filling.data, 0);
  }
}

void BatchWriter::boolean(size_t column, bool value) {
  Filling& filling = next(column, false);
  if (filling.column.kind != BatchColumn::Kind::boolean) refuse(filling);
  filling.data.push_back(value ? 1 : 0);
}

void BatchWriter::whole(size_t column, int64_t value) {
  Filling& filling = next(column, false);
  if (filling.column.kind != BatchColumn::Kind::whole && filling.column.kind != BatchColumn::Kind::time)
    refuse(filling);
  store(filling.data, value);
}

void BatchWriter::number(size_t column, double value) {
  Filling& filling = next(column, false);
  if (filling.column.kind != BatchColumn::Kind::number) refuse(filling);
  store(filling.data, value);
}

void BatchWriter::text(size_t column, std::string_view value) {
  Filling& filling = next(column, false);
  if (filling.column.kind == BatchColumn::Kind::text) {
    store(filling.lengths, static_cast<uint32_t>(value.size()));
    filling.data += value;
    return;
  }
  if (filling.column.kind != BatchColumn::Kind::words) refuse(filling);
  auto word = filling.words.find(value);
  if (word == filling.words.end()) {
    word = filling.words.emplace(value, static_cast<uint32_t>(filling.words.size())).first;
    filling.dictionary += value;
    filling.dictionary_lengths.push_back(static_cast<uint32_t>(value.size()));
  }
  store(filling.lengths, word->second);
}

size_t BatchWriter::rows() const {
  return filling_.empty() ? 0 : filling_.front().rows;
}

std::string BatchWriter::finish() {
  const auto rows = static_cast<uint32_t>(this->rows());
  std::string out("TB");
  out.push_back(static_cast<char>(batch_version));
  out.push_back(0);
  store(out, rows);
  store(out, static_cast<uint16_t>(filling_.size()));
  for (Filling& filling : filling_) {
    if (filling.rows != rows)
      throw Error{Error::Code::internal,
                  "column " + filling.column.name + " of a batch has another number of rows"};
    store(out, static_cast<uint16_t>(filling.column.name.size()));
    out += filling.column.name;
    out.push_back(static_cast<char>(filling.column.kind));
    out.push_back(filling.has_nulls ? 1 : 0);
    if (filling.has_nulls) out += filling.nulls;
    if (filling.column.kind == BatchColumn::Kind::words) {
      const size_t count = filling.dictionary_lengths.size();
      store(out, static_cast<uint32_t>(count));
      for (const uint32_t length : filling.dictionary_lengths) store(out, length);
      out += filling.dictionary;
      const unsigned char width = count <= 256 ? 1 : count <= 65536 ? 2 : 4;
      out.push_back(static_cast<char>(width));
      const auto* indexes = reinterpret_cast<const unsigned char*>(filling.lengths.data());
      for (uint32_t row = 0; row < rows; ++row)
        out.append(reinterpret_cast<const char*>(indexes) + size_t{row} * 4, width);
    } else {
      out += filling.lengths;
      out += filling.data;
    }
    Filling empty;
    empty.column = std::move(filling.column);
    filling = std::move(empty);
  }
  return out;
}

}  // namespace tick
