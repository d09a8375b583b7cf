// The fold's promise: any order and any split of the rows, folded directly or through deltas, gives the same
// bytes; and the partials are what a plain loop over the rows finds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <random>

#include "core/fold.hpp"

namespace tick {
namespace {

constexpr Micros minute = 60'000'000;

// Inputs: 0 symbol, 1 time, 2 price float8, 3 id int8, 4 amount numeric, 5 filter, 6 price int4, 7 name text.
Program candle_program() {
  Program program;
  program.id = 7;
  program.inputs = {{Type::text},    {Type::timestamp}, {Type::float8}, {Type::int8},
                    {Type::numeric}, {Type::boolean},   {Type::int4},   {Type::text}};
  program.keys = {0};
  program.time = 1;
  program.pane = minute;
  program.items = {{ItemKind::count},          {ItemKind::sum, 2},
                   {ItemKind::min, 2},         {ItemKind::max, 2},
                   {ItemKind::first, 2, 1, 3}, {ItemKind::last, 2, 1, 3},
                   {ItemKind::sum, 4},         {ItemKind::count, 2, -1, -1, 5},
                   {ItemKind::sum, 6},         {ItemKind::sum_sq, 2},
                   {ItemKind::last, 7, 1},     {ItemKind::sum_sq, 6}};
  return program;
}

struct Row {
  std::optional<std::string> symbol;
  std::optional<Micros> time;
  std::optional<double> price;
  std::optional<int64_t> id;
  std::optional<std::string> amount;
  std::optional<bool> filter;
  std::optional<int> units;
  std::string name;
};

Row random_row(std::mt19937_64& random) {
  const auto chance = [&](int percent) { return static_cast<int>(random() % 100) < percent; };
  Row row;
  if (!chance(3)) row.symbol = "S" + std::to_string(random() % 5);
  if (!chance(3)) row.time = static_cast<Micros>(random() % 20) * 17'000'000 - 100'000'000;
  if (chance(1)) row.time = plus_infinity;
  if (!chance(5))
    row.price = std::ldexp(static_cast<double>(random() % 100000), static_cast<int>(random() % 40) - 20);
  if (chance(1)) row.price = std::nan("");
  if (chance(2)) row.price = -0.0;
  if (!chance(10)) row.id = static_cast<int64_t>(random() % 50);
  if (!chance(10))
    row.amount = from_text(std::to_string(random() % 1000) + "." + std::to_string(random() % 100));
  if (!chance(10)) row.filter = chance(50);
  if (!chance(10)) row.units = static_cast<int>(random() % 2000) - 1000;
  row.name = std::string(random() % 4, 'x');
  return row;
}

void add(Fold& fold, std::span<const Row> rows, bool retract = false) {
  std::vector<std::vector<Cell>> cells(8);
  for (const Row& row : rows) {
    cells[0].push_back(row.symbol ? Cell::of_bytes(*row.symbol) : Cell::none());
    cells[1].push_back(row.time ? Cell::of_word(*row.time) : Cell::none());
    cells[2].push_back(row.price ? Cell::of_real(*row.price) : Cell::none());
    cells[3].push_back(row.id ? Cell::of_word(*row.id) : Cell::none());
    cells[4].push_back(row.amount ? Cell::of_bytes(*row.amount) : Cell::none());
    cells[5].push_back(row.filter ? Cell::of_word(*row.filter) : Cell::none());
    cells[6].push_back(row.units ? Cell::of_word(*row.units) : Cell::none());
    cells[7].push_back(Cell::of_bytes(row.name));
  }
  std::vector<Column> columns(cells.begin(), cells.end());
  if (retract)
    fold.retract(columns, rows.size());
  else
    fold.add(columns, rows.size());
}

// Everything a fold holds, in an order that does not depend on how it got there.
std::map<std::string, std::string> contents(const Fold& fold) {
  std::map<std::string, std::string> result;
  std::vector<int16_t> same(fold.program().items.size());
  std::iota(same.begin(), same.end(), 0);
  for (size_t slot = 0; slot < fold.slots(); ++slot) {
    const Cell key = fold.key(slot, 0);
    const std::string name =
        (key.null ? "NULL" : std::string(key.view())) + "@" + std::to_string(fold.pane(slot));
    Fold one(fold.program());
    one.merge(fold, same, [&](const Fold& from, size_t at) -> std::optional<Micros> {
      return at == slot ? std::make_optional(from.pane(at)) : std::nullopt;
    });
    std::string bytes;
    encode(one, bytes);
    EXPECT_TRUE(result.emplace(name, bytes).second) << "slot twice: " << name;
  }
  return result;
}

class FoldTest : public testing::Test {
 protected:
  std::mt19937_64 random_{[] {
    const uint64_t seed = std::random_device{}();
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    return seed;
  }()};
  Program program_ = candle_program();
  std::vector<Row> rows(size_t count) {
    std::vector<Row> result;
    for (size_t i = 0; i < count; ++i) result.push_back(random_row(random_));
    return result;
  }
};

TEST_F(FoldTest, OrderAndSplitDoNotMatter) {
  for (int round = 0; round < 40; ++round) {
    std::vector<Row> rows = this->rows(300);
    Fold whole(program_);
    add(whole, rows);
    const auto expected = contents(whole);
    std::shuffle(rows.begin(), rows.end(), random_);
    Fold merged(program_);
    std::vector<int16_t> same(program_.items.size());
    std::iota(same.begin(), same.end(), 0);
    for (size_t at = 0; at < rows.size();) {
      const size_t count = std::min<size_t>(1 + random_() % 60, rows.size() - at);
      Fold part(program_);
      add(part, std::span(rows).subspan(at, count));
      at += count;
      if (random_() % 2 == 0) {
        std::string delta;
        encode(part, delta);
        merge_delta(merged, delta);
      } else {
        merged.merge(part, same,
                     [](const Fold& from, size_t slot) { return std::optional(from.pane(slot)); });
      }
    }
    // merge() does not count rows, deltas do; the partials must agree.
    EXPECT_EQ(contents(merged), expected);
  }
}

TEST_F(FoldTest, AgreesWithAPlainLoop) {
  const std::vector<Row> rows = this->rows(2000);
  Fold fold(program_);
  add(fold, rows);
  struct Expected {
    int64_t count = 0, filtered = 0, units = 0;
    std::optional<std::tuple<Micros, int64_t, double>> first, last;
  };
  std::map<std::pair<std::string, Micros>, Expected> expected;
  for (const Row& row : rows) {
    Micros pane = no_time_pane;
    if (row.time && *row.time != plus_infinity) {
      pane = *row.time / minute * minute;
      if (pane > *row.time) pane -= minute;
    }
    Expected& group = expected[{row.symbol.value_or("NULL"), pane}];
    ++group.count;
    if (row.price && row.filter.value_or(false)) ++group.filtered;
    group.units += row.units.value_or(0);
    if (!row.price || !row.time || std::isnan(*row.price)) continue;
    const std::tuple<Micros, int64_t, double> place{*row.time, row.id.value_or(-1), *row.price};
    if (!group.first || place < *group.first) group.first = place;
    if (!group.last || place > *group.last) group.last = place;
  }
  ASSERT_EQ(fold.slots(), expected.size());
  for (size_t slot = 0; slot < fold.slots(); ++slot) {
    const Cell key = fold.key(slot, 0);
    const Expected& group = expected.at({key.null ? "NULL" : std::string(key.view()), fold.pane(slot)});
    EXPECT_EQ(fold.partials(0).counts[slot], group.count);
    EXPECT_EQ(fold.partials(7).counts[slot], group.filtered);
    EXPECT_EQ(static_cast<int64_t>(fold.partials(8).integers[slot]), group.units);
    const Extreme& first = fold.partials(4).extremes[slot];
    if (group.first && !std::isnan(first.value.cell(Type::float8).real)) {
      EXPECT_EQ(first.order.word, std::get<0>(*group.first));
      EXPECT_EQ(first.value.cell(Type::float8).real, std::get<2>(*group.first));
    }
  }
}

TEST_F(FoldTest, EqualKeysAreOneKey) {
  Program program;
  program.inputs = {{Type::float8}, {Type::numeric}, {Type::bpchar}};
  program.keys = {0, 1, 2};
  program.items = {{ItemKind::count}};
  Fold fold(program);
  const std::string one = from_text("1.0"), padded = from_text("1.00");
  const std::vector<Cell> reals = {Cell::of_real(0.0), Cell::of_real(-0.0)};
  const std::vector<Cell> decimals = {Cell::of_bytes(one), Cell::of_bytes(padded)};
  const std::vector<Cell> chars = {Cell::of_bytes("a"), Cell::of_bytes("a  ")};
  const std::vector<Column> columns = {reals, decimals, chars};
  fold.add(columns, 2);
  ASSERT_EQ(fold.slots(), 1u);
  EXPECT_EQ(fold.partials(0).counts[0], 2);
}

// Rows that came and left again, in any order and split: counts and sums are those of the rows that stayed,
// to the last bit, and so is an extreme that beats everything that has left.
TEST_F(FoldTest, WhatLeavesIsSubtractedExactly) {
  for (int round = 0; round < 40; ++round) {
    const std::vector<Row> all = this->rows(400);
    struct Event {
      Row row;
      bool leaves;
    };
    std::vector<Event> events;
    std::vector<Row> rest;
    for (const Row& row : all) {
      events.push_back({row, false});
      if (random_() % 3 == 0)
        events.push_back({row, true});
      else
        rest.push_back(row);
    }
    std::shuffle(events.begin(), events.end(), random_);
    Fold fold(program_), expected(program_);
    add(expected, rest);
    std::vector<int16_t> same(program_.items.size());
    std::iota(same.begin(), same.end(), 0);
    for (size_t at = 0; at < events.size();) {
      const size_t count = std::min<size_t>(1 + random_() % 60, events.size() - at);
      Fold part(program_);
      for (size_t i = at; i < at + count; ++i) add(part, std::span(&events[i].row, 1), events[i].leaves);
      at += count;
      if (random_() % 2 == 0) {
        std::string delta;
        encode(part, delta);
        merge_delta(fold, delta);
      } else {
        fold.merge(part, same, [](const Fold& from, size_t slot) { return std::optional(from.pane(slot)); });
      }
    }
    std::map<std::string, size_t> where;
    const auto name = [](const Fold& of, size_t slot) {
      const Cell key = of.key(slot, 0);
      return (key.null ? "NULL" : std::string(key.view())) + "@" + std::to_string(of.pane(slot));
    };
    for (size_t slot = 0; slot < expected.slots(); ++slot) where[name(expected, slot)] = slot;
    size_t certain = 0, left = 0;
    for (size_t slot = 0; slot < fold.slots(); ++slot) {
      const auto found = where.find(name(fold, slot));
      if (found == where.end()) {
        EXPECT_EQ(fold.partials(0).counts[slot], 0);
        continue;
      }
      const size_t of = found->second;
      where.erase(found);
      for (size_t index = 0; index < program_.items.size(); ++index) {
        const Item& item = program_.items[index];
        const Partials &have = fold.partials(index), &want = expected.partials(index);
        switch (have.kind) {
          case PartialKind::count:
            EXPECT_EQ(have.counts[slot], want.counts[of]);
            break;
          case PartialKind::integer:
            EXPECT_EQ(static_cast<int64_t>(have.integers[slot]), static_cast<int64_t>(want.integers[of]));
            break;
          case PartialKind::exact:
            EXPECT_TRUE(have.exacts[slot] == want.exacts[of]);
            break;
          case PartialKind::decimal:
            EXPECT_TRUE(have.decimals[slot] == want.decimals[of]);
            break;
          case PartialKind::extreme: {
            const Place held = place(program_, item, have.extremes[slot]);
            const Extreme& gone = have.gone[slot];
            if (gone.set) ++left;
            if (gone.set && !beats(program_, item, held, place(program_, item, gone))) break;
            ++certain;
            ASSERT_EQ(have.extremes[slot].set, want.extremes[of].set);
            if (have.extremes[slot].set) {
              EXPECT_EQ(compare(program_, item, held, place(program_, item, want.extremes[of])), 0);
            }
          }
        }
      }
    }
    EXPECT_TRUE(where.empty());
    EXPECT_GT(certain, 0u);
    EXPECT_GT(left, 0u);
  }
}

TEST_F(FoldTest, RestrictDropsAndIgnoresPanesOutside) {
  const std::vector<Row> rows = this->rows(500);
  Fold whole(program_), late(program_);
  add(whole, rows);
  whole.restrict_to(0, 2 * minute);
  late.restrict_to(0, 2 * minute);
  add(late, rows);
  EXPECT_EQ(contents(whole), contents(late));
  EXPECT_GT(whole.slots(), 0u);
}

TEST_F(FoldTest, FailuresTravelInTheDelta) {
  Fold fold(program_), read(program_);
  fold.fail(2, "division by zero");
  fold.fail(2, "again");
  std::string delta;
  encode(fold, delta);
  EXPECT_FALSE(fold.empty());
  merge_delta(read, delta);
  ASSERT_EQ(read.failures().size(), 1u);
  EXPECT_EQ(read.failures()[0].message, "division by zero");
}

TEST_F(FoldTest, CorruptedDeltasThrowAndNeverCrash) {
  const std::vector<Row> rows = this->rows(60);
  Fold fold(program_);
  add(fold, rows);
  add(fold, std::span(rows).subspan(30), true);
  std::string delta;
  encode(fold, delta);
  for (size_t size = 0; size < delta.size(); ++size) {
    Fold read(program_);
    EXPECT_THROW(merge_delta(read, std::string_view(delta).substr(0, size)), Error);
  }
  for (int round = 0; round < 20000; ++round) {
    std::string broken = delta;
    for (int flips = 1 + static_cast<int>(random_() % 4); flips > 0; --flips)
      broken[random_() % broken.size()] = static_cast<char>(random_());
    Fold read(program_);
    try {
      merge_delta(read, broken);
    } catch (const Error& error) {
      EXPECT_EQ(error.code, Error::Code::data_corrupted) << error.what();
    }
  }
}

}  // namespace
}  // namespace tick
