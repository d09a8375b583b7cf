// Batches: what is written is read back, and no damaged bytes get past the reader.
#include "../../extension/core/batch.hpp"

#include <gtest/gtest.h>

#include <random>

#include "../../extension/core/error.hpp"

namespace tick {
namespace {

using Kind = BatchColumn::Kind;

std::span<const unsigned char> bytes_of(const std::string& text) {
  return {reinterpret_cast<const unsigned char*>(text.data()), text.size()};
}

std::string some_batch(std::mt19937_64& random, uint32_t rows, size_t words) {
  BatchWriter writer({{"b", Kind::boolean},
                      {"w", Kind::whole},
                      {"n", Kind::number},
                      {"ts", Kind::time},
                      {"t", Kind::text},
                      {"s", Kind::words}});
  for (uint32_t row = 0; row < rows; ++row) {
    writer.boolean(0, row % 3 == 0);
    if (row % 5 == 0)
      writer.null(1);
    else
      writer.whole(1, static_cast<int64_t>(random()));
    writer.number(2, static_cast<double>(row) / 7);
    writer.whole(3, -static_cast<int64_t>(row));
    if (row % 4 == 1)
      writer.null(4);
    else
      writer.text(4, std::string(row % 9, 'x'));
    if (row % 6 == 5)
      writer.null(5);
    else
      writer.text(5, "S" + std::to_string(row % words));
  }
  return writer.finish();
}

TEST(Batch, ReadsBackWhatWasWritten) {
  for (const uint32_t rows : {0u, 1u, 7u, 8u, 9u, 1000u})
    for (const size_t words : {size_t{1}, size_t{256}, size_t{257}}) {
      std::mt19937_64 random(5), again(5);
      const std::string bytes = some_batch(random, rows, words);
      const Batch batch = read_batch(bytes_of(bytes));
      ASSERT_EQ(batch.rows, rows);
      ASSERT_EQ(batch.columns.size(), 6u);
      EXPECT_EQ(batch.columns[5].name, "s");
      for (uint32_t row = 0; row < rows; ++row) {
        EXPECT_EQ(batch.columns[0].word(row), row % 3 == 0 ? 1 : 0);
        ASSERT_EQ(batch.columns[1].is_null(row), row % 5 == 0);
        if (row % 5 != 0) {
          EXPECT_EQ(batch.columns[1].word(row), static_cast<int64_t>(again()));
        }
        EXPECT_EQ(batch.columns[2].number(row), static_cast<double>(row) / 7);
        EXPECT_EQ(batch.columns[3].word(row), -static_cast<int64_t>(row));
        ASSERT_EQ(batch.columns[4].is_null(row), row % 4 == 1);
        if (row % 4 != 1) {
          EXPECT_EQ(batch.columns[4].texts[row], std::string(row % 9, 'x'));
        }
        ASSERT_EQ(batch.columns[5].is_null(row), row % 6 == 5);
        if (row % 6 != 5) {
          EXPECT_EQ(batch.columns[5].texts.at(static_cast<size_t>(batch.columns[5].word(row))),
                    "S" + std::to_string(row % words));
        }
      }
    }
}

TEST(Batch, WriterStartsAnewAndRefusesHoles) {
  BatchWriter writer({{"a", Kind::whole}, {"s", Kind::words}});
  writer.whole(0, 1);
  writer.text(1, "x");
  EXPECT_EQ(writer.rows(), 1u);
  const std::string first = writer.finish();
  EXPECT_EQ(writer.rows(), 0u);
  writer.whole(0, 1);
  EXPECT_THROW((void)writer.finish(), Error);
  BatchWriter other({{"a", Kind::whole}, {"s", Kind::words}});
  EXPECT_THROW(other.text(0, "x"), Error);
}

TEST(Batch, EveryTruncationIsFound) {
  std::mt19937_64 random(1);
  const std::string bytes = some_batch(random, 20, 300);
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_THROW((void)read_batch(bytes_of(bytes.substr(0, size))), Error) << size;
  EXPECT_THROW((void)read_batch(bytes_of(bytes + "x")), Error);
}

TEST(Batch, DamageIsFoundOrHarmless) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::string whole = some_batch(random, 50, 300);
  int refused = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string bytes = whole;
    for (int change = 0; change < 3; ++change)
      bytes[random() % bytes.size()] = static_cast<char>(random() % 256);
    try {
      const Batch batch = read_batch(bytes_of(bytes));
      for (const BatchColumn& column : batch.columns)
        for (uint32_t row = 0; row < batch.rows; ++row) {
          if (column.is_null(row)) continue;
          if (column.kind == Kind::text)
            (void)column.texts.at(row).size();
          else if (column.kind == Kind::words)
            (void)column.texts.at(static_cast<size_t>(column.word(row))).size();
          else
            (void)column.word(row);
        }
    } catch (const Error& error) {
      EXPECT_EQ(error.code, Error::Code::data_corrupted);
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace tick
