// The ring: order, bounds, the two reasons for a batch to leave, and the end.
#include <gtest/gtest.h>

#include <thread>

#include "ingestor/batch.hpp"

namespace {

using namespace tick::ingest;
using std::chrono::milliseconds;
using std::chrono::seconds;

std::vector<Tick> some_ticks(std::int64_t first, std::size_t n) {
  std::vector<Tick> ticks(n);
  for (std::size_t i = 0; i < n; ++i) ticks[i].id = first + static_cast<std::int64_t>(i);
  return ticks;
}

TEST(Ring, AFullBatchLeavesAtOnce) {
  Ring ring(100, 10, seconds(3600));
  EXPECT_EQ(ring.push(some_ticks(0, 25)), 25u);
  std::vector<Tick> batch;
  ASSERT_TRUE(ring.take(batch));
  ASSERT_EQ(batch.size(), 10u);
  EXPECT_EQ(batch[0].id, 0);
  ASSERT_TRUE(ring.take(batch));
  EXPECT_EQ(batch[0].id, 10);
  EXPECT_EQ(ring.size(), 5u);
}

TEST(Ring, AnOldTickLeavesAlone) {
  Ring ring(100, 10, milliseconds(1));
  ring.push(some_ticks(7, 1));
  std::vector<Tick> batch;
  ASSERT_TRUE(ring.take(batch));
  ASSERT_EQ(batch.size(), 1u);
  EXPECT_EQ(batch[0].id, 7);
}

TEST(Ring, NeverHoldsMoreThanItsCapacity) {
  Ring ring(2000, 2000, seconds(3600));
  EXPECT_EQ(ring.push(some_ticks(0, 1500)), 1500u);
  EXPECT_EQ(ring.push(some_ticks(1500, 1500)), 500u);
  EXPECT_EQ(ring.push(some_ticks(2000, 1)), 0u);
  std::vector<Tick> batch;
  ASSERT_TRUE(ring.take(batch));
  EXPECT_EQ(batch.size(), 2000u);
  EXPECT_EQ(batch.back().id, 1999);
  EXPECT_EQ(ring.push(some_ticks(2000, 1)), 1u);
}

TEST(Ring, CloseGivesTheRestAndThenEnds) {
  Ring ring(100, 10, seconds(3600));
  ring.push(some_ticks(0, 3));
  ring.close();
  EXPECT_EQ(ring.push(some_ticks(3, 1)), 0u);
  EXPECT_FALSE(ring.push_wait(some_ticks(3, 1)));
  std::vector<Tick> batch;
  ASSERT_TRUE(ring.take(batch));
  EXPECT_EQ(batch.size(), 3u);
  EXPECT_FALSE(ring.take(batch));
}

TEST(Ring, NothingIsLostOrReorderedBetweenThreads) {
  Ring ring(700, 64, milliseconds(1));
  constexpr std::int64_t total = 200'000;
  std::thread producer([&] {
    std::int64_t next = 0;
    while (next < total) {
      const auto n = static_cast<std::size_t>(std::min<std::int64_t>(1 + next % 97, total - next));
      ASSERT_TRUE(ring.push_wait(some_ticks(next, n)));
      next += static_cast<std::int64_t>(n);
    }
    ring.close();
  });
  std::int64_t expected = 0;
  std::vector<Tick> batch;
  while (ring.take(batch))
    for (const auto& tick : batch) ASSERT_EQ(tick.id, expected++);
  producer.join();
  EXPECT_EQ(expected, total);
}

}  // namespace
