// Coinbase, Kraken v2 and the venues: real messages and recordings field by field, broken ones by edits,
// random mutations of all of them.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <random>

#include "ingestor/config.hpp"
#include "ingestor/feed.hpp"
#include "ingestor/replay.hpp"
#include "mutations.hpp"

namespace {

using namespace tick::ingest;

constexpr std::string_view coinbase_frame =
    R"({"type":"match","trade_id":280232,"maker_order_id":"2a0da34e-61f7-4c36-88e5-c9dd15927b16",)"
    R"("taker_order_id":"3c82abaa-c01e-4608-be59-6a1e69742891","side":"sell","size":"985",)"
    R"("price":"0.00001305","product_id":"SKL-BTC","sequence":177100030,"time":"2021-04-17T16:43:37.089723Z"})";
constexpr std::string_view kraken_frame =
    R"({"channel":"trade","type":"update","data":[)"
    R"({"symbol":"BTC/USD","side":"buy","price":105944.20,"qty":0.00027625,"ord_type":"limit",)"
    R"("trade_id":10218209,"timestamp":"2023-10-06T17:35:55.440295Z"},)"
    R"({"symbol":"BTC/USD","side":"sell","price":105910.50 ,"qty":1.246e-4,"ord_type":"market",)"
    R"("trade_id":10218208,"timestamp":"2023-10-06T17:35:56.123456Z"}]})";

std::int64_t micros(Timestamp time) {
  return time.time_since_epoch().count();
}

std::filesystem::path shared_data() {
  const char* root = std::getenv("TICK_SHARED");
  return std::filesystem::path(root != nullptr ? root : "../shared") / "data";
}

std::string with(std::string_view frame, std::string_view from, std::string_view to) {
  std::string text(frame);
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

Verdict verdict_of(std::string_view venue, std::string_view text) {
  std::vector<Tick> out;
  const auto decoded = find_venue(venue)->make(Stream::trade)->decode(text, Timestamp{}, out);
  EXPECT_EQ(out.empty(), decoded.verdict != Verdict::tick) << text;
  return decoded.verdict;
}

TEST(CoinbaseDecode, Match) {
  std::vector<Tick> out;
  const Timestamp received{std::chrono::microseconds(1618677817129516)};
  ASSERT_EQ(make_coinbase_feed()->decode(coinbase_frame, received, out).verdict, Verdict::tick);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].symbol.view(), "SKL-BTC");
  EXPECT_EQ(out[0].id, 280232);
  EXPECT_EQ(out[0].price, 0.00001305);
  EXPECT_EQ(out[0].qty, 985);
  EXPECT_EQ(micros(out[0].ts), 1618677817089723);
  EXPECT_EQ(out[0].received, received);
  EXPECT_EQ(out[0].maker, Maker::seller);  // `side` is the maker's
  EXPECT_EQ(verdict_of("coinbase", with(coinbase_frame, "match", "last_match")), Verdict::tick);
}

TEST(CoinbaseDecode, OtherMessages) {
  EXPECT_EQ(verdict_of("coinbase", R"({"type":"subscriptions","channels":[]})"), Verdict::reply);
  EXPECT_EQ(verdict_of("coinbase", R"({"type":"error","message":"Failed to subscribe","reason":"x"})"),
            Verdict::refused);
  for (const auto* type : {"heartbeat", "ticker", "l2update", "snapshot", "status", "something new"})
    EXPECT_EQ(verdict_of("coinbase", std::string(R"({"type":")") + type + R"(","sequence":90})"),
              Verdict::ignored);
  EXPECT_EQ(verdict_of("coinbase", R"({"a":1})"), Verdict::unknown);
}

TEST(CoinbaseDecode, BrokenEventsAreMalformed) {
  const std::pair<std::string_view, std::string_view> edits[] = {
      {"\"0.00001305\"", "\"0\""},
      {"\"0.00001305\"", "\"-1\""},
      {"\"0.00001305\"", "\"NaN\""},
      {"\"0.00001305\"", "null"},
      {"\"0.00001305\"", "[1]"},
      {"\"985\"", "\"inf\""},
      {"\"985\"", "\"\""},
      {"280232", "\"280232\""},
      {"280232", "-1"},
      {"280232", "1.5"},
      {"2021-04-17T16:43:37.089723Z", "0001-01-01T00:00:00.000000Z"},
      {"2021-04-17T16:43:37.089723Z", "1969-12-31T00:00:00Z"},
      {"2021-04-17T16:43:37.089723Z", "2021-02-30T00:00:00Z"},
      {"SKL-BTC", ""},
      {"SKL-BTC", "\xff"},
      {"\"side\":\"sell\"", "\"side\":\"up\""},
      {"\"time\"", "\"tme\""},
      {"Z\"}", "Z\"}}"},
      {"Z\"}", "Z\""},
  };
  for (const auto& [from, to] : edits) {
    const std::string text = with(coinbase_frame, from, to);
    EXPECT_EQ(verdict_of("coinbase", text), Verdict::malformed) << text;
  }
  std::vector<Tick> out;
  const Timestamp years_before{std::chrono::microseconds(1500000000000000)};
  EXPECT_EQ(make_coinbase_feed()->decode(coinbase_frame, years_before, out).verdict, Verdict::malformed);
}

TEST(KrakenDecode, SeveralTradesInOrderOfTheirIds) {
  std::vector<Tick> out;
  ASSERT_EQ(make_kraken_feed()->decode(kraken_frame, Timestamp{}, out).verdict, Verdict::tick);
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0].id, 10218208);
  EXPECT_EQ(out[1].id, 10218209);
  EXPECT_EQ(out[0].price, 105910.5);
  EXPECT_EQ(out[0].qty, 0.0001246);
  EXPECT_EQ(out[0].maker, Maker::buyer);  // `side` is the taker's
  EXPECT_EQ(out[1].price, 105944.2);
  EXPECT_EQ(out[1].qty, 0.00027625);
  EXPECT_EQ(micros(out[1].ts), 1696613755440295);
  EXPECT_EQ(out[1].maker, Maker::seller);
  EXPECT_EQ(out[1].symbol.view(), "BTC/USD");
}

TEST(KrakenDecode, OneBadTradeLeavesTheOthers) {
  std::vector<Tick> out;
  const auto decoded = make_kraken_feed()->decode(with(kraken_frame, "105944.20", "-1"), Timestamp{}, out);
  EXPECT_EQ(decoded.verdict, Verdict::tick);
  EXPECT_EQ(decoded.bad, 1u);
  EXPECT_STREQ(decoded.reason, "impossible price");
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].id, 10218208);
}

TEST(KrakenDecode, OtherMessages) {
  EXPECT_EQ(verdict_of("kraken", R"({"channel":"heartbeat"})"), Verdict::ignored);
  EXPECT_EQ(verdict_of("kraken", R"({"channel":"status","type":"update","data":[{"version":"2.0"}]})"),
            Verdict::ignored);
  EXPECT_EQ(verdict_of("kraken", R"({"method":"subscribe","result":{},"success":true})"), Verdict::reply);
  EXPECT_EQ(verdict_of("kraken", R"({"method":"subscribe","success":false,"error":"no such pair"})"),
            Verdict::refused);
  EXPECT_EQ(verdict_of("kraken", R"({"channel":"trade","type":"snapshot","data":[]})"), Verdict::ignored);
  EXPECT_EQ(verdict_of("kraken", R"({"channel":"trade","data":7})"), Verdict::malformed);
  EXPECT_EQ(verdict_of("kraken", R"({"channel":"trade","data":[7]})"), Verdict::malformed);
  EXPECT_EQ(verdict_of("kraken", R"({"a":1})"), Verdict::unknown);
}

TEST(Decoders, TruncationsAndMutationsNeverBreakThem) {
  std::mt19937 random = seeded_random();
  const std::pair<std::string_view, std::string_view> targets[] = {{"coinbase", coinbase_frame},
                                                                   {"kraken", kraken_frame}};
  for (const auto& [venue, frame] : targets)
    expect_unbroken(*find_venue(venue)->make(Stream::trade), frame, random, 30'000);
}

TEST(Venues, RequestsAndSpellings) {
  const std::vector<std::string> two = {"BTC-USD", "ETH-USD"};
  EXPECT_EQ(
      make_coinbase_feed()->greetings("wss://x", two, Stream::trade),
      (std::vector<std::string>{
          R"({"type":"subscribe","product_ids":["BTC-USD","ETH-USD"],"channels":["matches","heartbeat"]})"}));
  EXPECT_EQ(
      make_kraken_feed()->subscribe({"BTC/USD"}, Stream::trade, true),
      (std::vector<std::string>{
          R"({"method":"subscribe","params":{"channel":"trade","snapshot":true,"symbol":["BTC/USD"]},"req_id":1})"}));
  EXPECT_EQ(make_binance_feed(Stream::trade)->subscribe({"A"}, Stream::trade, false),
            (std::vector<std::string>{R"({"method":"UNSUBSCRIBE","params":["a@trade"],"id":1})"}));
  EXPECT_TRUE(own_host(*find_venue("binance"), "data-stream.binance.vision"));
  EXPECT_FALSE(own_host(*find_venue("binance"), "stream.binance.us"));
  EXPECT_FALSE(own_host(*find_venue("kraken"), "localhost"));
}

Config config_of(const std::string& feed, std::vector<std::string>* mistakes = nullptr) {
  ConfigSource source;
  source.toml = "[feed]\nname = \"" + feed +
                "\"\nsymbols = [\"BTCUSDT\"]\n[symbols]\nBTCUSDT = [\"BTC-USD\", \"XBT/USD\"]\n";
  source.toml_name = "tick.toml";
  auto result = read_config(source);
  if (mistakes != nullptr) *mistakes = result.mistakes;
  return result.config;
}

TEST(Venues, OneListOfSymbolsForAllOfThem) {
  const std::map<std::string, std::string> spelled = {{"binance", "BTCUSDT"},
                                                      {"binance.us", "BTCUSDT"},
                                                      {"binance.data", "BTCUSDT"},
                                                      {"coinbase", "BTC-USD"},
                                                      {"kraken", "BTC/USD"}};
  for (const auto& [feed, symbol] : spelled) {
    std::vector<std::string> mistakes;
    const Config config = config_of(feed, &mistakes);
    EXPECT_TRUE(mistakes.empty()) << mistakes[0];
    ASSERT_EQ(config.symbols, std::vector<std::string>{symbol}) << feed;
    EXPECT_EQ(table_name(config, symbol), "BTCUSDT") << feed;
    EXPECT_EQ(config.url, find_venue(feed)->url);
  }
  EXPECT_EQ(config_of("binance.us").exchange, "binance.us");
  EXPECT_EQ(config_of("binance.data").exchange, "binance");
  ConfigSource source;
  source.flags = {{"--feed", "coinbase"}, {"--symbols", "ETHUSDT"}};
  const auto wrong = read_config(source).mistakes;
  ASSERT_EQ(wrong.size(), 1u);
  EXPECT_NE(wrong[0].find("BTC-USD"), std::string::npos) << wrong[0];
}

std::vector<Tick> ticks_of(const std::filesystem::path& file, std::map<Verdict, std::size_t>& counts) {
  RecordReader reader(file.string());
  RecordDecoder decoder(reader.framing(), {});
  Record record;
  std::vector<Tick> ticks;
  while (reader.next(record)) ++counts[decoder.decode(record, ticks).verdict];
  std::cout << file.filename().string() << ": " << ticks.size() << " ticks, " << counts[Verdict::ignored]
            << " other messages, " << counts[Verdict::malformed] << " malformed\n";
  return ticks;
}

TEST(RealMessages, CoinbaseRecording) {
  const auto file = shared_data() / "recordings/coinbase/COINBASE.ws.28.0";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no recording " << file;
  std::map<Verdict, std::size_t> counts;
  const auto ticks = ticks_of(file, counts);
  ASSERT_EQ(ticks.size(), 107u);  // 97 match, 10 last_match
  EXPECT_EQ(counts[Verdict::malformed], 0u);
  EXPECT_EQ(counts[Verdict::reply], 3u);
  std::map<std::string, std::int64_t> last;
  for (const auto& tick : ticks) {
    auto& id = last[std::string(tick.symbol.view())];
    if (id != 0) {
      EXPECT_EQ(tick.id, id + 1) << tick.symbol.view();
    }
    id = tick.id;
    EXPECT_EQ(tick.exchange.view(), "coinbase");
  }
  EXPECT_EQ(last.size(), 10u);
  const Tick& first = ticks.front();
  EXPECT_EQ(first.symbol.view(), "BAND-GBP");
  EXPECT_EQ(first.id, 881613);
  EXPECT_EQ(first.price, 14.7775);
  EXPECT_EQ(first.qty, 0.04);
  EXPECT_EQ(first.maker, Maker::seller);
  EXPECT_EQ(micros(first.ts), 1618677810244075);
  EXPECT_EQ(micros(first.received), 1618677817079762);
  const Tick& end = ticks.back();
  EXPECT_EQ(end.symbol.view(), "SKL-USD");
  EXPECT_EQ(end.id, 1568319);
  EXPECT_EQ(end.price, 0.7902);
  EXPECT_EQ(end.qty, 18);
  EXPECT_EQ(end.maker, Maker::buyer);
  EXPECT_EQ(micros(end.ts), 1618677846669388);
  EXPECT_EQ(micros(end.received), 1618677846656778);
}

TEST(RealMessages, BinanceRecordings) {
  const auto folder = shared_data() / "recordings";
  if (!std::filesystem::exists(folder / "binance_us/BINANCE_US.ws.1.0")) GTEST_SKIP() << "no recordings";
  std::map<Verdict, std::size_t> counts;
  const auto spot = ticks_of(folder / "binance/spot_btcusdt_20240808.gz", counts);
  const auto us = ticks_of(folder / "binance_us/BINANCE_US.ws.1.0", counts);
  EXPECT_EQ(ticks_of(folder / "binance/BINANCE.ws.1.0", counts).size(), 2u);
  EXPECT_EQ(counts[Verdict::malformed], 0u);
  EXPECT_EQ(spot.front().id, 3735683259);
  EXPECT_EQ(spot.front().price, 61837.63);
  EXPECT_EQ(spot.front().qty, 0.02);
  EXPECT_EQ(spot.front().maker, Maker::buyer);
  EXPECT_EQ(micros(spot.front().ts), 1723161255342000);
  ASSERT_EQ(us.size(), 11u);
  EXPECT_EQ(us.back().symbol.view(), "OMGBUSD");
  EXPECT_EQ(us.back().id, 425095);
  EXPECT_EQ(us.back().price, 13.7604);
  EXPECT_EQ(us.back().qty, 10);
  EXPECT_EQ(us.back().maker, Maker::buyer);
  EXPECT_EQ(micros(us.back().ts), 1633998301807000);
}

TEST(RealMessages, KrakenAndTheOthersOfTheFolder) {
  const auto folder = shared_data() / "messages";
  if (!std::filesystem::exists(folder / "kraken_ws_trade_update.json")) GTEST_SKIP() << "no messages";
  std::size_t trades = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() != ".json") continue;
    std::ifstream file(entry.path());
    const std::string text(std::istreambuf_iterator<char>(file), {});
    std::vector<Tick> out;
    const auto verdict = make_kraken_feed()->decode(text, Timestamp{}, out).verdict;
    trades += out.size();
    if (!name.starts_with("kraken")) continue;
    const Verdict expected = name.find("trade") != std::string::npos  ? Verdict::tick
                             : name.find("ohlc") != std::string::npos ? Verdict::ignored
                                                                      : Verdict::reply;
    EXPECT_EQ(verdict, expected) << name;
    if (verdict != Verdict::tick) continue;
    ASSERT_EQ(out.size(), 2u);
    EXPECT_EQ(out[0].id, 10218208);
    EXPECT_EQ(out[0].price, 105944.20);
    EXPECT_EQ(out[0].qty, 0.00027625);
    EXPECT_EQ(out[1].id, 10218209);
    EXPECT_EQ(out[1].price, 105910.50);
    EXPECT_EQ(out[1].qty, 0.0001246);
    EXPECT_EQ(micros(out[1].ts), 1696613756123456);
  }
  std::cout << "messages: " << trades << " Kraken v2 trades\n";
  EXPECT_EQ(trades, 2u);
}

}  // namespace
