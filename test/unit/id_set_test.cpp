// Sets of ids against std::set under random operations, their bytes against every kind of damage, and the law
// by which changes are composed.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "core/id_set.hpp"

namespace tick {
namespace {

IdSet of(const std::set<int64_t>& ids) {
  IdSet set;
  for (int64_t id : ids) set.insert(id);
  return set;
}

std::set<int64_t> ids_of(const IdSet& set) {
  std::set<int64_t> ids;
  for (const IdSet::Range& range : set.ranges())
    for (int64_t id = range.lo; id <= range.hi; ++id) ids.insert(id);
  return ids;
}

IdSet round_trip(const IdSet& set) {
  std::string bytes;
  set.encode(bytes);
  std::span<const unsigned char> in(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  IdSet result = IdSet::decode(in);
  EXPECT_TRUE(in.empty());
  return result;
}

void check(const IdSet& set, const std::set<int64_t>& expected) {
  ASSERT_EQ(ids_of(set), expected);
  ASSERT_EQ(set.count(), static_cast<int64_t>(expected.size()));
  for (size_t i = 1; i < set.ranges().size(); ++i)
    ASSERT_GT(set.ranges()[i].lo, set.ranges()[i - 1].hi + 1) << "ranges touch";
  ASSERT_EQ(round_trip(set), set);
}

std::mt19937_64 seeded(const char* what) {
  const auto seed = std::random_device{}();
  std::cout << what << ": seed " << seed << std::endl;
  return std::mt19937_64(seed);
}

TEST(IdSet, RandomOperations) {
  auto random = seeded("RandomOperations");
  for (int round = 0; round < 200; ++round) {
    IdSet set;
    std::set<int64_t> expected;
    const int64_t span = 10 + static_cast<int64_t>(random() % 200);
    const auto some = [&] {
      std::set<int64_t> ids;
      for (int64_t n = static_cast<int64_t>(random() % 30); n > 0; --n) {
        int64_t id = static_cast<int64_t>(random() % span) - span / 2;
        for (int64_t run = static_cast<int64_t>(random() % 6); run > 0; --run) ids.insert(id++);
      }
      return ids;
    };
    for (int step = 0; step < 100; ++step) {
      const int64_t id = static_cast<int64_t>(random() % span) - span / 2;
      switch (random() % 5) {
        case 0:
        case 1:
          ASSERT_EQ(set.insert(id), expected.insert(id).second);
          break;
        case 2:
          ASSERT_EQ(set.erase(id), expected.erase(id) == 1);
          break;
        case 3: {
          const auto ids = some();
          set.insert(of(ids));
          expected.insert(ids.begin(), ids.end());
          break;
        }
        default: {
          const auto ids = some();
          set.erase(of(ids));
          for (int64_t gone : ids) expected.erase(gone);
        }
      }
      ASSERT_EQ(set.contains(id), expected.contains(id));
      check(set, expected);
    }
  }
}

TEST(IdSet, EndsOfTheNumbers) {
  constexpr int64_t least = std::numeric_limits<int64_t>::min(), most = std::numeric_limits<int64_t>::max();
  IdSet set;
  EXPECT_TRUE(set.insert(most));
  EXPECT_TRUE(set.insert(least));
  EXPECT_TRUE(set.insert(most - 1));
  EXPECT_TRUE(set.insert(least + 1));
  EXPECT_FALSE(set.insert(most));
  EXPECT_FALSE(set.insert(least));
  EXPECT_EQ(set.ranges().size(), 2u);
  EXPECT_EQ(set.count(), 4);
  EXPECT_EQ(round_trip(set), set);
  IdSet other;
  other.insert(most);
  other.insert(0);
  set.insert(other);
  EXPECT_EQ(set.ranges().size(), 3u);
  set.erase(other);
  EXPECT_FALSE(set.contains(most));
  EXPECT_TRUE(set.contains(most - 1));
  EXPECT_TRUE(set.erase(least));
  EXPECT_EQ(round_trip(set), set);
}

TEST(IdSet, TimesOfEdges) {
  IdSet set;
  for (int64_t id = 1; id <= 5; ++id) set.insert(id, id * 10);
  for (int64_t id = 9; id >= 8; --id) set.insert(id, id * 10);
  set.date_edges(1000);
  ASSERT_EQ(set.ranges().size(), 2u);
  EXPECT_EQ(set.ranges()[0], (IdSet::Range{1, 5, 10, 50, 1000}));
  EXPECT_EQ(set.ranges()[1], (IdSet::Range{8, 9, 80, 90, 1000}));
  IdSet more;
  more.insert(7, 70);
  more.insert(20, 200);
  set.insert(more);
  set.date_edges(2000);
  EXPECT_EQ(set.ranges()[1], (IdSet::Range{7, 9, 70, 90, 1000}));
  EXPECT_EQ(set.ranges()[2], (IdSet::Range{20, 20, 200, 200, 2000}));
  set.insert(6, 60);
  EXPECT_EQ(set.ranges()[0], (IdSet::Range{1, 9, 10, 90, 1000}));
  set.erase(4);
  EXPECT_EQ(set.ranges()[0], (IdSet::Range{1, 3, 10, no_time, 1000}));
  EXPECT_EQ(set.ranges()[1], (IdSet::Range{5, 9, no_time, 90, no_time}));
  EXPECT_EQ(round_trip(set), set);
}

TEST(IdSet, ContiguousIdsAreSmall) {
  IdSet set;
  for (int64_t id = 0; id < 1'000'000; ++id) set.insert(id + 3'000'000'000, id);
  std::string bytes;
  set.encode(bytes);
  EXPECT_LT(bytes.size(), 20u);
}

TEST(IdSet, DamagedBytes) {
  auto random = seeded("DamagedBytes");
  for (int round = 0; round < 2000; ++round) {
    IdDelta delta;
    delta.order = random();
    delta.group = "g";
    delta.duplicates = 3;
    for (int key = 0; key < 3; ++key) {
      IdDelta::Entry entry;
      entry.key = "key" + std::to_string(key);
      for (int n = 0; n < 10; ++n) {
        entry.change.added.insert(static_cast<int64_t>(random() >> (random() % 64)),
                                  static_cast<Micros>(random() % 1000));
        entry.change.removed.insert(static_cast<int64_t>(random() % 20));
      }
      delta.entries.push_back(entry);
    }
    std::string bytes;
    delta.encode(bytes);
    const IdDelta back = IdDelta::decode(bytes);
    ASSERT_EQ(back.order, delta.order);
    ASSERT_EQ(back.entries.size(), 3u);
    ASSERT_EQ(back.entries[2].change.added, delta.entries[2].change.added);
    ASSERT_EQ(back.entries[2].change.removed, delta.entries[2].change.removed);
    if (random() % 2 == 0)
      bytes.resize(random() % bytes.size());
    else
      bytes[random() % bytes.size()] = static_cast<char>(random());
    try {
      (void)IdDelta::decode(bytes);
    } catch (const Error& error) {
      ASSERT_EQ(error.code, Error::Code::data_corrupted);
    }
  }
}

// A change of changes is the same as one after the other, also over a set that has seen some of them.
TEST(IdChange, Composition) {
  auto random = seeded("Composition");
  for (int round = 0; round < 2000; ++round) {
    std::vector<IdChange> changes(4);
    for (IdChange& change : changes)
      for (int n = 0; n < 8; ++n)
        (random() % 2 == 0 ? change.added : change.removed).insert(static_cast<int64_t>(random() % 12));
    IdSet start;
    for (int n = 0; n < 6; ++n) start.insert(static_cast<int64_t>(random() % 12));
    IdChange all;
    IdSet expected = start;
    for (const IdChange& change : changes) {
      change.apply_to(expected);
      all.then(change);
    }
    IdSet set = start;
    for (size_t seen = 0; seen < changes.size(); ++seen) {
      IdSet again = set;
      all.apply_to(again);
      ASSERT_EQ(ids_of(again), ids_of(expected));
      changes[seen].apply_to(set);
    }
  }
}

TEST(Key, BytesAreTheKey) {
  const std::vector<Type> types = {Type::text, Type::int8, Type::float8, Type::text};
  std::string key;
  append_key(key, Cell::of_bytes("a\0b"), Type::text);
  append_key(key, Cell::of_word(-5), Type::int8);
  append_key(key, Cell::of_real(1.5), Type::float8);
  append_key(key, Cell::none(), Type::text);
  const auto cells = read_key(key, types);
  ASSERT_EQ(cells.size(), 4u);
  EXPECT_EQ(cells[0].view(), "a\0b");
  EXPECT_EQ(cells[1].word, -5);
  EXPECT_EQ(cells[2].real, 1.5);
  EXPECT_TRUE(cells[3].null);
  for (size_t size = 0; size < key.size(); ++size) EXPECT_THROW(read_key(key.substr(0, size), types), Error);
  EXPECT_THROW(read_key(key + "x", types), Error);
}

}  // namespace
}  // namespace tick
