// Binance frames -> ticks: literal frames, real recordings (skipped when absent), and random mutations of
// real frames, which must never do worse than be called malformed.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <random>
#include <set>

#include "ingestor/feed.hpp"
#include "ingestor/replay.hpp"
#include "mutations.hpp"

namespace {

using namespace tick::ingest;

constexpr std::string_view trade_frame =
    R"({"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,)"
    R"("p":"61837.63000000","q":"0.02000000","T":1723161255342,"m":true,"M":true}})";
constexpr std::string_view agg_frame =
    R"({"e":"aggTrade","E":1633998288468,"s":"OMGBUSD","a":425085,"p":"13.80480000","q":"2.10000000",)"
    R"("f":439577,"l":439577,"T":1633998288467,"m":false,"M":true})";

std::int64_t micros(Timestamp time) {
  return time.time_since_epoch().count();
}

Verdict verdict_of(std::string_view text, Stream stream = Stream::any) {
  std::vector<Tick> out;
  const auto verdict = make_binance_feed(stream)->decode(text, Timestamp{}, out).verdict;
  EXPECT_EQ(out.size(), verdict == Verdict::tick ? 1u : 0u) << text;
  return verdict;
}

std::string with(std::string_view frame, std::string_view from, std::string_view to) {
  std::string text(frame);
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos);
  return text.replace(at, from.size(), to);
}

std::filesystem::path shared_data() {
  const char* root = std::getenv("TICK_SHARED");
  return std::filesystem::path(root != nullptr ? root : "../shared") / "data";
}

TEST(BinanceDecode, TradeInTheCombinedEnvelope) {
  std::vector<Tick> out;
  const Timestamp received{std::chrono::microseconds(1723161254087896)};
  ASSERT_EQ(make_binance_feed(Stream::trade)->decode(trade_frame, received, out).verdict, Verdict::tick);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].symbol.view(), "BTCUSDT");
  EXPECT_EQ(out[0].id, 3735683259);
  EXPECT_TRUE(out[0].has_id);
  EXPECT_EQ(out[0].price, 61837.63);
  EXPECT_EQ(out[0].qty, 0.02);
  EXPECT_EQ(micros(out[0].ts), 1723161255342000);
  EXPECT_EQ(out[0].received, received);
  EXPECT_EQ(out[0].maker, Maker::buyer);
}

TEST(BinanceDecode, RawAggTrade) {
  std::vector<Tick> out;
  ASSERT_EQ(make_binance_feed(Stream::agg_trade)->decode(agg_frame, Timestamp{}, out).verdict, Verdict::tick);
  EXPECT_EQ(out[0].id, 425085);
  EXPECT_EQ(out[0].price, 13.8048);
  EXPECT_EQ(out[0].qty, 2.1);
  EXPECT_EQ(out[0].maker, Maker::seller);
}

TEST(BinanceDecode, MembersInAnyOrderAndMicroseconds) {
  std::vector<Tick> out;
  ASSERT_EQ(
      make_binance_feed(Stream::any)
          ->decode(
              R"({"data":{"m":false,"T":1723161255342123,"q":"1","p":"2","t":7,"s":"A","e":"trade"},"stream":"a@trade"})",
              Timestamp{}, out)
          .verdict,
      Verdict::tick);
  EXPECT_EQ(micros(out[0].ts), 1723161255342123);
}

TEST(BinanceDecode, OtherMessagesHaveTheirOwnVerdicts) {
  EXPECT_EQ(verdict_of(R"({"result":null,"id":1})"), Verdict::reply);
  EXPECT_EQ(verdict_of(R"({"code":2,"msg":"Invalid request"})"), Verdict::refused);
  EXPECT_EQ(verdict_of(R"({"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}})"),
            Verdict::shutdown);
  EXPECT_EQ(verdict_of(R"({"e":"serverShutdown","E":1})"), Verdict::shutdown);
  EXPECT_EQ(
      verdict_of(R"({"stream":"b@depth","data":{"e":"depthUpdate","E":1,"s":"B","b":[["1","2"]],"a":[]}})"),
      Verdict::ignored);
  EXPECT_EQ(verdict_of(R"({"stream":"b@bookTicker","data":{"u":1,"s":"B","b":"1","B":"2","a":"3","A":"4"}})"),
            Verdict::ignored);
  EXPECT_EQ(verdict_of(R"({"lastUpdateId":5,"bids":[["1","2"]],"asks":[]})"), Verdict::unknown);
  EXPECT_EQ(verdict_of("[1,2]"), Verdict::unknown);
}

TEST(BinanceDecode, TheSameTradeIsNeverTakenFromBothStreams) {
  const auto feed = make_binance_feed(Stream::any);
  std::vector<Tick> out;
  EXPECT_EQ(feed->decode(trade_frame, Timestamp{}, out).verdict, Verdict::tick);
  EXPECT_EQ(feed->decode(agg_frame, Timestamp{}, out).verdict, Verdict::ignored);
  EXPECT_EQ(out.size(), 1u);
  EXPECT_EQ(verdict_of(trade_frame, Stream::agg_trade), Verdict::ignored);
}

TEST(BinanceDecode, BrokenEventsAreMalformed) {
  const std::pair<std::string_view, std::string_view> edits[] = {
      {"\"61837.63000000\"", "61837.63"},
      {"\"61837.63000000\"", "\"\""},
      {"\"61837.63000000\"", "\"-1\""},
      {"\"61837.63000000\"", "\"0\""},
      {"\"61837.63000000\"", "\"nan\""},
      {"\"61837.63000000\"", "\"inf\""},
      {"\"61837.63000000\"", "\"0x10\""},
      {"\"61837.63000000\"", "\"1.5 \""},
      {"\"61837.63000000\"", "\"1e999\""},
      {"\"0.02000000\"", "null"},
      {"\"0.02000000\"", "\"1,5\""},
      {"3735683259", "\"3735683259\""},
      {"3735683259", "-1"},
      {"3735683259", "99999999999999999999999"},
      {"1723161255342", "0"},
      {"1723161255342", "-5"},
      {"1723161255342,", "\"1723161255342\","},
      {"\"BTCUSDT\"", "\"\""},
      {"\"BTCUSDT\"", "\"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJ\""},
      {"\"m\":true", "\"m\":1"},
      {"\"t\":", "\"x\":"},
      {"\"s\":", "\"x\":"},
      {"}}", "}"},
      {"}}", "}}}"},
      {"\"p\":", "\"p\""},
  };
  for (const auto& [from, to] : edits) {
    std::string text = with(trade_frame, from, to);
    EXPECT_EQ(verdict_of(text), Verdict::malformed) << text;
  }
  EXPECT_EQ(verdict_of(""), Verdict::malformed);
  EXPECT_EQ(verdict_of("ping"), Verdict::malformed);
  EXPECT_EQ(verdict_of("{"), Verdict::malformed);
  std::vector<Tick> out;
  const Timestamp years_before{std::chrono::microseconds(1600000000000000)};
  EXPECT_EQ(make_binance_feed(Stream::any)->decode(trade_frame, years_before, out).verdict,
            Verdict::malformed);
}

TEST(BinanceDecode, EveryTruncationIsMalformedOrIgnored) {
  for (const auto frame : {trade_frame, agg_frame})
    for (std::size_t n = 0; n < frame.size(); ++n) {
      const auto verdict = verdict_of(frame.substr(0, n));
      EXPECT_EQ(verdict, Verdict::malformed) << frame.substr(0, n);
    }
}

TEST(BinanceDecode, RandomMutationsNeverBreakTheDecoder) {
  std::mt19937 random = seeded_random();
  // The first kind of event decides what `any` means.
  for (const auto frame : {trade_frame, agg_frame})
    expect_unbroken(*make_binance_feed(Stream::any), frame, random, 30'000);
}

auto all_of(const Tick& tick) {
  return std::tuple(tick.ts, tick.price, tick.qty, tick.id, tick.has_id, tick.has_qty, tick.maker,
                    std::string(tick.symbol.view()));
}

// A blank in front keeps a message from the fast way: both ways must say the same of every message.
TEST(BinanceDecode, BothWaysAgree) {
  std::mt19937 random = seeded_random();
  long messages = 0, ticks = 0;
  for (const auto frame : {trade_frame, agg_frame}) {
    for (int i = 0; i < 60'000; ++i) {
      std::string message(frame);
      if (i > 0) mutate(message, random);
      if (random() % 4 == 0) mutate(message, random);
      std::vector<Tick> fast, slow;
      const Decoded a = make_binance_feed(Stream::any)->decode(message, Timestamp{}, fast);
      const Decoded b = make_binance_feed(Stream::any)->decode(" " + message, Timestamp{}, slow);
      ASSERT_EQ(a.verdict, b.verdict) << message << "\n" << a.reason << " / " << b.reason;
      ASSERT_EQ(std::string(a.reason), std::string(b.reason)) << message;
      ASSERT_EQ(fast.size(), slow.size()) << message;
      for (std::size_t k = 0; k < fast.size(); ++k) ASSERT_EQ(all_of(fast[k]), all_of(slow[k])) << message;
      ++messages;
      ticks += static_cast<long>(fast.size());
    }
  }
  EXPECT_GT(ticks, messages / 20) << "hardly any message was still a trade";
}

TEST(BinanceFeed, AddressesAndRequests) {
  const auto feed = make_binance_feed(Stream::trade);
  EXPECT_EQ(feed->url("ws://h:1", {"BTCUSDT", "ETHUSDT"}, Stream::trade),
            "ws://h:1/stream?streams=btcusdt@trade/ethusdt@trade");
  EXPECT_EQ(feed->url("ws://h:1/", {"A"}, Stream::agg_trade), "ws://h:1/stream?streams=a@aggTrade");
  EXPECT_EQ(feed->url("ws://h:1/ws/a@trade", {"A"}, Stream::trade), "ws://h:1/ws/a@trade");
  EXPECT_TRUE(feed->greetings("ws://h:1", {"A"}, Stream::trade).empty());
  const std::vector<std::string> many(450, "AB");
  EXPECT_EQ(feed->url("ws://h:1", many, Stream::trade), "ws://h:1/stream");
  const auto requests = feed->greetings("ws://h:1", many, Stream::trade);
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_TRUE(requests[0].starts_with(R"({"method":"SUBSCRIBE","params":["ab@trade","ab@trade")"));
  EXPECT_TRUE(requests[2].ends_with(R"(],"id":3})"));
}

std::vector<Tick> ticks_of(const std::filesystem::path& file, std::size_t& malformed) {
  RecordReader reader(file.string());
  RecordDecoder decoder(reader.framing(), {});
  Record record;
  std::vector<Tick> ticks;
  malformed = 0;
  while (reader.next(record)) malformed += decoder.decode(record, ticks).verdict == Verdict::malformed;
  return ticks;
}

TEST(Recordings, BinanceSpotTradesAreContiguousOverBothFiles) {
  const auto folder = shared_data() / "recordings/binance";
  if (!std::filesystem::exists(folder / "spot_btcusdt_20240808.gz"))
    GTEST_SKIP() << "no recordings in " << folder;
  std::int64_t next = 3735683259;
  for (const auto* name : {"spot_btcusdt_20240808.gz", "spot_btcusdt_20240809.gz"}) {
    std::size_t malformed = 0;
    for (const auto& tick : ticks_of(folder / name, malformed)) {
      ASSERT_EQ(tick.id, next++);
      ASSERT_NE(tick.received, Timestamp{});
    }
    EXPECT_EQ(malformed, 0u);
  }
  EXPECT_EQ(next, 3735703163);
}

TEST(Recordings, ConnectionFramingAndAggTrades) {
  const auto file = shared_data() / "recordings/binance_us/BINANCE_US.ws.1.0";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no recording " << file;
  std::size_t malformed = 0;
  const auto ticks = ticks_of(file, malformed);
  EXPECT_EQ(ticks.size(), 11u);
  EXPECT_EQ(malformed, 0u);
}

TEST(Recordings, ArrayOfTradeObjects) {
  const auto file = shared_data() / "oracle/XRP_OLD-trades.json.gz";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no file " << file;
  std::size_t malformed = 0;
  const auto ticks = ticks_of(file, malformed);
  ASSERT_EQ(ticks.size(), 12477u);
  EXPECT_EQ(malformed, 0u);
  for (std::size_t i = 1; i < ticks.size(); ++i) ASSERT_EQ(ticks[i].id, ticks[i - 1].id + 1);
  EXPECT_EQ(ticks[0].symbol.view(), "XRPETH");
  EXPECT_EQ(ticks[0].price, 0.00141342);
  EXPECT_EQ(ticks[0].maker, Maker::buyer);
}

}  // namespace
