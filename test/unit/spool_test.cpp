// The spool: what goes in comes out in order, over segments, restarts, a torn end and a full disk; and the
// ring that hands over to it and back.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "ingestor/batch.hpp"
#include "ingestor/spool.hpp"

namespace {

using namespace tick::ingest;

Tick tick_of(std::int64_t id) {
  Tick tick;
  tick.ts = Timestamp(std::chrono::microseconds(1723161255342000 + id));
  tick.received = tick.ts + std::chrono::milliseconds(1);
  tick.price = 0.1 * static_cast<double>(id);
  tick.qty = 3;
  tick.has_qty = true;
  tick.id = id;
  tick.has_id = true;
  tick.maker = id % 2 == 0 ? Maker::buyer : Maker::seller;
  tick.symbol.assign("BTCUSDT");
  tick.exchange.assign("binance");
  if (id % 2 == 1) tick.name.assign("Bitcoin");
  tick.whole = id % 3 == 1;
  return tick;
}

class Folder {
 public:
  Folder() {
    path = (std::filesystem::temp_directory_path() / "spool_test_XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) throw std::runtime_error("mkdtemp");
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

std::vector<Tick> some(std::int64_t from, std::int64_t n) {
  std::vector<Tick> ticks;
  for (std::int64_t id = from; id < from + n; ++id) ticks.push_back(tick_of(id));
  return ticks;
}

TEST(Spool, ARecordIsTheTick) {
  std::string bytes;
  append_record(bytes, tick_of(7));
  append_record(bytes, tick_of(8));
  std::string_view in = bytes;
  Tick tick;
  ASSERT_TRUE(take_record(in, tick));
  EXPECT_EQ(tick.id, 7);
  EXPECT_EQ(tick.price, tick_of(7).price);
  EXPECT_EQ(tick.qty, 3);
  EXPECT_EQ(tick.ts, tick_of(7).ts);
  EXPECT_EQ(tick.received, tick_of(7).received);
  EXPECT_EQ(tick.maker, Maker::seller);
  EXPECT_EQ(tick.symbol.view(), "BTCUSDT");
  EXPECT_EQ(tick.exchange.view(), "binance");
  EXPECT_EQ(tick.name.view(), "Bitcoin");
  EXPECT_TRUE(tick.whole);
  ASSERT_TRUE(take_record(in, tick));
  EXPECT_FALSE(tick.whole);
  EXPECT_EQ(tick.id, 8);
  EXPECT_FALSE(take_record(in, tick));
  // Every truncation and every flipped byte is noticed.
  for (std::size_t n = 0; n < bytes.size() / 2; ++n) {
    std::string_view cut = std::string_view(bytes).substr(0, n);
    EXPECT_FALSE(take_record(cut, tick)) << n;
    std::string flipped = bytes;
    flipped[n] = static_cast<char>(flipped[n] ^ 0x20);
    std::string_view broken = flipped;
    EXPECT_FALSE(take_record(broken, tick)) << n;
  }
}

TEST(Spool, OrderOverSegmentsAndRestarts) {
  const Folder folder;
  std::vector<Tick> out;
  {
    Spool spool(folder.path + "/a/b", 1 << 20, 1000);
    EXPECT_EQ(spool.append(some(1, 300)), 300u);
    EXPECT_THROW(Spool(folder.path + "/a/b", 1 << 20), std::runtime_error);
    EXPECT_EQ(spool.take(out, 100), 100u);
    EXPECT_EQ(spool.append(some(301, 100)), 100u);
    EXPECT_EQ(spool.waiting(), 300u);
    spool.forget();
  }
  out.clear();
  // What was taken and not forgotten with its whole segment comes again.
  Spool spool(folder.path + "/a/b", 1 << 20, 1000);
  while (spool.take(out, 64) > 0) {
  }
  ASSERT_GE(out.size(), 300u);
  ASSERT_LE(out.size(), 320u);
  EXPECT_EQ(out.back().id, 400);
  for (std::size_t i = 1; i < out.size(); ++i) ASSERT_EQ(out[i].id, out[i - 1].id + 1);
  EXPECT_TRUE(spool.empty());
  spool.forget();
  EXPECT_EQ(spool.bytes(), 0u);
  // Used again after it was drained.
  EXPECT_EQ(spool.append(some(401, 10)), 10u);
  out.clear();
  EXPECT_EQ(spool.take(out, 100), 10u);
  EXPECT_EQ(out[0].id, 401);
}

TEST(Spool, ATornEndIsCutOff) {
  const Folder folder;
  { EXPECT_EQ(Spool(folder.path, 1 << 20).append(some(1, 10)), 10u); }
  for (const auto& entry : std::filesystem::directory_iterator(folder.path))
    if (entry.path().extension() == ".spool")
      std::filesystem::resize_file(entry.path(), std::filesystem::file_size(entry.path()) - 5);
  Spool spool(folder.path, 1 << 20);
  std::vector<Tick> out;
  EXPECT_EQ(spool.take(out, 100), 9u);
  EXPECT_TRUE(spool.empty());
}

TEST(Spool, TheLimitIsKept) {
  const Folder folder;
  Spool spool(folder.path, 2000, 500);
  const auto taken = spool.append(some(1, 100));
  EXPECT_GT(taken, 10u);
  EXPECT_LT(taken, 40u);
  EXPECT_LE(spool.bytes(), 2000u);
  std::vector<Tick> out;
  while (spool.take(out, 8) > 0) spool.forget();
  EXPECT_EQ(out.size(), taken);
  EXPECT_EQ(spool.append(some(200, 5)), 5u);
}

TEST(Spool, TheRingHandsOverAndBackInOrder) {
  const Folder folder;
  Ring ring(10, 4, std::chrono::microseconds(0));
  ring.spool_to(std::make_unique<Spool>(folder.path, 1 << 20, 300));
  EXPECT_EQ(ring.push(some(1, 25)), 25u);
  EXPECT_EQ(ring.size(), 10u);
  EXPECT_EQ(ring.spooled(), 15u);
  std::vector<Tick> batch;
  std::int64_t next = 1;
  const auto drain = [&](std::size_t batches) {
    for (; batches > 0 && ring.size() + ring.spooled() > 0; --batches) {
      ASSERT_TRUE(ring.take(batch));
      for (const auto& tick : batch) ASSERT_EQ(tick.id, next++);
    }
  };
  drain(2);
  EXPECT_EQ(ring.push(some(26, 5)), 5u);  // there is room, but what is on disk is older
  EXPECT_EQ(ring.spooled(), 20u);
  drain(100);
  EXPECT_EQ(next, 31);
  EXPECT_EQ(ring.push(some(31, 3)), 3u);
  EXPECT_EQ(ring.spooled(), 0u);
  EXPECT_EQ(ring.size(), 3u);
  ASSERT_TRUE(ring.take(batch));
  ring.close();
  EXPECT_TRUE(ring.save(batch));
  EXPECT_EQ(ring.spooled(), 3u);
  EXPECT_EQ(ring.dropped(), 0u);
}

TEST(Spool, WhatIsSavedAtTheEndComesBackInOrder) {
  for (const std::size_t batches : {0u, 1u, 2u, 3u, 5u, 7u}) {
    const Folder folder;
    std::vector<Tick> batch;
    std::int64_t committed = 0;
    {
      Ring ring(10, 4, std::chrono::microseconds(0));
      ring.spool_to(std::make_unique<Spool>(folder.path, 1 << 20, 300));
      EXPECT_EQ(ring.push(some(1, 25)), 25u);
      for (std::size_t i = 0; i < batches; ++i) {
        if (!batch.empty()) committed = batch.back().id;
        ASSERT_TRUE(ring.take(batch));
      }
      ring.push(some(26, 5));
      ring.close();
      ASSERT_TRUE(ring.save(batch));
      EXPECT_EQ(ring.size(), 0u);
    }
    Ring ring(10, 4, std::chrono::microseconds(0));
    ring.spool_to(std::make_unique<Spool>(folder.path, 1 << 20, 300));
    ring.push(some(31, 2));
    std::int64_t last = 0;
    for (ring.close(); ring.take(batch);)
      for (const auto& tick : batch) {
        if (last == 0) {
          EXPECT_LE(tick.id, committed + 1) << batches;
        } else {
          EXPECT_EQ(tick.id, last + 1) << batches;
        }
        last = tick.id;
      }
    EXPECT_EQ(last, 32) << batches;
  }
}

}  // namespace
