// libFuzzer over batches, the bytes that any user may hand to tick.ingest: what the reader lets pass is
// whole, and written again it reads the same.
#include <bit>
#include <cstdlib>

#include "core/batch.hpp"
#include "core/error.hpp"

namespace {

using namespace tick;

void require(bool holds) {
  if (!holds) std::abort();
}

bool has_texts(const BatchColumn& column) {
  return column.kind == BatchColumn::Kind::text || column.kind == BatchColumn::Kind::words;
}

std::string_view text_of(const BatchColumn& column, size_t row) {
  return column.texts.at(column.kind == BatchColumn::Kind::text ? row
                                                                : static_cast<size_t>(column.word(row)));
}

void put(BatchWriter& writer, size_t index, const BatchColumn& column, size_t row) {
  if (column.is_null(row)) return writer.null(index);
  if (has_texts(column)) return writer.text(index, text_of(column, row));
  if (column.kind == BatchColumn::Kind::boolean) return writer.boolean(index, column.word(row) != 0);
  if (column.kind == BatchColumn::Kind::number) return writer.number(index, column.number(row));
  writer.whole(index, column.word(row));
}

bool same(const BatchColumn& a, const BatchColumn& b, size_t row) {
  if (a.is_null(row) || b.is_null(row)) return a.is_null(row) && b.is_null(row);
  if (has_texts(a)) return text_of(a, row) == text_of(b, row);
  if (a.kind == BatchColumn::Kind::boolean) return (a.word(row) != 0) == (b.word(row) != 0);
  return a.word(row) == b.word(row);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Batch batch;
  try {
    batch = read_batch({data, size});
  } catch (const Error& error) {
    require(error.code == Error::Code::data_corrupted && !error.message.empty());
    return 0;
  }
  std::vector<BatchWriter::Column> columns;
  for (const BatchColumn& column : batch.columns) columns.push_back({std::string(column.name), column.kind});
  BatchWriter writer(columns);
  for (size_t i = 0; i < batch.columns.size(); ++i) {
    const BatchColumn& column = batch.columns[i];
    for (uint32_t row = 0; row < batch.rows; ++row) put(writer, i, column, row);
    if (column.kind == BatchColumn::Kind::text) continue;
    std::vector<int64_t> words(batch.rows);
    column.read(0, batch.rows, words.data());
    for (uint32_t row = 0; row < batch.rows; ++row) require(words[row] == column.word(row));
  }
  const std::string bytes = writer.finish();
  const Batch again = read_batch({reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()});
  require(again.columns.size() == batch.columns.size());
  require(again.rows == (batch.columns.empty() ? 0 : batch.rows));
  for (size_t i = 0; i < batch.columns.size(); ++i) {
    require(again.columns[i].name == batch.columns[i].name && again.columns[i].kind == batch.columns[i].kind);
    for (uint32_t row = 0; row < batch.rows; ++row) require(same(batch.columns[i], again.columns[i], row));
  }
  return 0;
}
