// OKX, Bybit, Bitstamp, Gemini and Coinbase Advanced: real messages and recordings field by field, broken
// ones by edits, truncations and random mutations. Bybit v5 and Coinbase Advanced have not been seen live:
// their messages are those of their documentation and of other people's tests.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <random>
#include <set>

#include "ingestor/config.hpp"
#include "ingestor/feed.hpp"
#include "ingestor/replay.hpp"
#include "mutations.hpp"

namespace {

using namespace tick::ingest;

constexpr std::string_view okx_frame =
    R"({"arg":{"channel":"trades","instId":"BTC-USD"},"data":[{"instId":"BTC-USD","tradeId":"130639474",)"
    R"("px":"42219.9","sz":"0.12060306","side":"buy","ts":"1630048897897","count":"3"}]})";
constexpr std::string_view bybit_frame =
    R"({"topic":"publicTrade.BTCUSDT","ts":1680652847526,"type":"snapshot","data":[)"
    R"({"i":"2290000000050703789","T":1680652847524,"p":"28165.38","v":"0.041732","S":"Sell","s":"BTCUSDT","BT":false}]})";
constexpr std::string_view bitstamp_frame =
    R"({"data":{"id":216000477,"timestamp":"1641343699","amount":0.0792,"amount_str":"0.07920000",)"
    R"("price":3805.44,"price_str":"3805.44","type":0,"microtimestamp":"1641343699596000",)"
    R"("buy_order_id":1443875737346049,"sell_order_id":1443875731320832},"channel":"live_trades_ethusd","event":"trade"})";
constexpr std::string_view gemini_frame =
    R"({"type":"trade","symbol":"ANKRUSD","event_id":45465818387,"timestamp":1624493670759,)"
    R"("price":"0.07946","quantity":"1020.482111","side":"buy"})";
constexpr std::string_view advanced_frame =
    R"({"channel":"market_trades","client_id":"","timestamp":"2026-04-07T14:30:02.789012Z","sequence_num":5,)"
    R"("events":[{"type":"update","trades":[{"trade_id":"995098700","product_id":"BTC-USD","price":"68900.50",)"
    R"("size":"0.00150000","side":"BUY","time":"2026-04-07T14:30:02.789012Z"}]}]})";

struct Sample {
  const char* venue;
  std::string_view frame;
  const char* symbol;
  std::int64_t id;
  double price;
  double qty;
  std::int64_t micros;
  Maker maker;
};
constexpr Sample samples[] = {
    {"okx", okx_frame, "BTC-USD", 130639474, 42219.9, 0.12060306, 1630048897897000, Maker::seller},
    {"bybit", bybit_frame, "BTCUSDT", 2290000000050703789, 28165.38, 0.041732, 1680652847524000,
     Maker::buyer},
    {"bitstamp", bitstamp_frame, "ETHUSD", 216000477, 3805.44, 0.0792, 1641343699596000, Maker::seller},
    {"gemini", gemini_frame, "ANKRUSD", 45465818387, 0.07946, 1020.482111, 1624493670759000, Maker::seller},
    {"coinbase.advanced", advanced_frame, "BTC-USD", 995098700, 68900.5, 0.0015, 1775572202789012,
     Maker::buyer},
};

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

void expect_tick(const Tick& tick, const Sample& is) {
  EXPECT_EQ(tick.symbol.view(), is.symbol);
  EXPECT_TRUE(tick.has_id && tick.has_qty);
  EXPECT_EQ(tick.id, is.id) << is.venue;
  EXPECT_EQ(tick.price, is.price) << is.venue;
  EXPECT_EQ(tick.qty, is.qty) << is.venue;
  EXPECT_EQ(tick.ts.time_since_epoch().count(), is.micros) << is.venue;
  EXPECT_EQ(tick.maker, is.maker) << is.venue;
}

TEST(MoreVenues, OneTradeFieldByField) {
  for (const auto& sample : samples) {
    std::vector<Tick> out;
    const Timestamp received{std::chrono::microseconds(sample.micros + 5)};
    ASSERT_EQ(find_venue(sample.venue)->make(Stream::trade)->decode(sample.frame, received, out).verdict,
              Verdict::tick)
        << sample.venue;
    ASSERT_EQ(out.size(), 1u);
    expect_tick(out[0], sample);
    EXPECT_EQ(out[0].received, received);
  }
}

TEST(MoreVenues, OtherMessages) {
  const struct {
    const char* venue;
    const char* text;
    Verdict verdict;
  } cases[] = {
      {"okx", "pong", Verdict::reply},
      {"okx", R"({"event":"subscribe","arg":{"channel":"trades-all","instId":"BTC-USDT"}})", Verdict::reply},
      {"okx", R"({"event":"error","code":"60012","msg":"Invalid request"})", Verdict::refused},
      {"okx", R"({"event":"notice","code":"64008","msg":"closed soon"})", Verdict::shutdown},
      {"okx", R"({"arg":{"channel":"books","instId":"A"},"action":"update","data":[{"asks":[]}]})",
       Verdict::ignored},
      {"okx", R"({"arg":{"channel":"trades-all","instId":"A"}})", Verdict::malformed},
      {"bybit", R"({"success":true,"ret_msg":"pong","conn_id":"x","op":"ping"})", Verdict::reply},
      {"bybit", R"({"success":true,"ret_msg":"","conn_id":"x","req_id":"","op":"subscribe"})",
       Verdict::reply},
      {"bybit", R"({"success":false,"ret_msg":"error:handler not found","op":"subscribe"})",
       Verdict::refused},
      {"bybit", R"({"topic":"kline.5.BTCUSDT","data":[{"start":1}],"ts":1,"type":"snapshot"})",
       Verdict::ignored},
      {"bitstamp", R"({"event":"bts:subscription_succeeded","channel":"live_trades_ethusd","data":{}})",
       Verdict::reply},
      {"bitstamp", R"({"event":"bts:request_reconnect","channel":"","data":""})", Verdict::shutdown},
      {"bitstamp", R"({"event":"bts:error","channel":"","data":{"code":null,"message":"Bad subscription"}})",
       Verdict::refused},
      {"bitstamp", R"({"data":{"id":1,"type":0},"channel":"live_orders_ethusd","event":"order_created"})",
       Verdict::ignored},
      {"gemini", R"({"type":"heartbeat","timestamp":1624493666869})", Verdict::ignored},
      {"gemini", R"({"type":"subscription_ack","subscriptions":[]})", Verdict::reply},
      {"gemini", R"({"result":"error","reason":"InvalidJson"})", Verdict::refused},
      {"gemini", R"({"type":"l2_updates","symbol":"A","changes":[["buy","1","2"]]})", Verdict::ignored},
      {"coinbase.advanced", R"({"channel":"subscriptions","sequence_num":0,"events":[]})", Verdict::reply},
      {"coinbase.advanced", R"({"channel":"heartbeats","sequence_num":0,"events":[{"heartbeat_counter":4}]})",
       Verdict::ignored},
      {"coinbase.advanced", R"({"type":"error","message":"authentication failure"})", Verdict::refused},
      {"coinbase.advanced", R"({"channel":"candles","events":[{"type":"update","candles":[]}]})",
       Verdict::ignored},
  };
  for (const auto& one : cases) EXPECT_EQ(verdict_of(one.venue, one.text), one.verdict) << one.text;
  for (const auto& sample : samples) EXPECT_EQ(verdict_of(sample.venue, R"({"a":1})"), Verdict::unknown);
}

TEST(MoreVenues, BrokenTradesAreMalformed) {
  const struct {
    const char* venue;
    const char* from;
    const char* to;
  } edits[] = {{"okx", "\"42219.9\"", "\"-1\""},
               {"okx", "\"42219.9\"", "\"\""},
               {"okx", "\"130639474\"", "\"\""},
               {"okx", "\"130639474\"", "\"13x\""},
               {"okx", "\"buy\"", "\"hold\""},
               {"okx", "\"1630048897897\"", "\"0\""},
               {"okx", "\"BTC-USD\",\"tradeId\"", "7,\"tradeId\""},
               {"okx", "[{", "{"},
               {"okx", "\"sz\"", "\"x\""},
               {"bybit", "\"28165.38\"", "\"nan\""},
               {"bybit", "\"2290000000050703789\"", "\"xyz\""},
               {"bybit", "\"Sell\"", "null"},
               {"bybit", ":1680652847524", ":-5"},
               {"bybit", "\"0.041732\"", "\"0\""},
               {"bitstamp", "price_str", "x"},
               {"bitstamp", "amount_str", "x"},
               {"bitstamp", "\"type\":0", "\"type\":2"},
               {"bitstamp", "216000477", "-3"},
               {"bitstamp", "live_trades_ethusd", "live_trades_"},
               {"bitstamp", "\"1641343699596000\"", "\"\""},
               {"gemini", "\"ANKRUSD\"", "\"\""},
               {"gemini", "45465818387", "\"x\""},
               {"gemini", "\"0.07946\"", "\"1e999\""},
               {"gemini", "\"buy\"", "\"auction\""},
               {"coinbase.advanced", "\"995098700\"", "true"},
               {"coinbase.advanced", "\"BUY\"", "1"},
               {"coinbase.advanced", "02.789012Z\"}]", "02.7x\"}]"},
               {"coinbase.advanced", "[{\"trade_id", "{{\"trade_id"}};
  for (const auto& edit : edits)
    for (const auto& sample : samples)
      if (std::string_view(edit.venue) == sample.venue) {
        const std::string text = with(sample.frame, edit.from, edit.to);
        EXPECT_EQ(verdict_of(sample.venue, text), Verdict::malformed) << text;
      }
}

TEST(MoreVenues, OneBadTradeLeavesTheOthers) {
  const std::string two = with(bybit_frame, "\"BT\":false}", "\"BT\":false},{\"i\":\"9\",\"p\":\"0\"}");
  std::vector<Tick> out;
  const auto decoded = find_venue("bybit")->make(Stream::trade)->decode(two, Timestamp{}, out);
  EXPECT_EQ(decoded.verdict, Verdict::tick);
  EXPECT_EQ(decoded.bad, 1u);
  EXPECT_EQ(out.size(), 1u);
}

TEST(MoreVenues, UuidsBecomeIds) {
  const auto id_of = [](std::string_view uuid) {
    std::vector<Tick> out;
    const auto feed = find_venue("bybit.linear")->make(Stream::trade);
    const std::string text = with(bybit_frame, "2290000000050703789", uuid);
    EXPECT_EQ(feed->decode(text, Timestamp{}, out).verdict, Verdict::tick);
    return out.at(0).id;
  };
  std::mt19937_64 random(7);
  std::set<std::int64_t> ids;
  for (int i = 0; i < 20'000; ++i) {
    char text[40];
    const auto a = random();
    const auto b = random();
    std::snprintf(text, sizeof text, "%08llx-%04llx-4%03llx-%04llx-%012llx", a & 0xffffffffull,
                  a >> 32 & 0xffffull, a >> 48 & 0xfffull, b & 0xffffull, b >> 16 & 0xffffffffffffull);
    ids.insert(id_of(text));
  }
  EXPECT_EQ(ids.size(), 20'000u);
  EXPECT_GE(*ids.begin(), 0);
  const auto same = id_of("9DC75FCA-4bdd-4773-9f78-6f5d7ab2a110");
  EXPECT_EQ(same, id_of("9dc75fca-4bdd-4773-9f78-6f5d7ab2a110"));
  EXPECT_NE(same, id_of("9dc75fca-4bdd-4773-9f78-6f5d7ab2a111"));
}

TEST(MoreVenues, TruncationsAndMutationsNeverBreakThem) {
  std::mt19937 random = seeded_random();
  for (const auto& sample : samples)
    expect_unbroken(*find_venue(sample.venue)->make(Stream::trade), sample.frame, random, 20'000);
}

TEST(MoreVenues, RequestsAndSpellings) {
  const auto request = [](const char* venue, const char* symbol, bool add = true) {
    return find_venue(venue)->make(Stream::trade)->subscribe({symbol}, Stream::trade, add).at(0);
  };
  EXPECT_EQ(request("okx", "BTC-USDT"),
            R"({"op":"subscribe","args":[{"channel":"trades-all","instId":"BTC-USDT"}]})");
  EXPECT_EQ(request("bybit", "BTCUSDT"), R"({"op":"subscribe","args":["publicTrade.BTCUSDT"]})");
  EXPECT_EQ(request("bitstamp", "BTCUSD", false),
            R"({"event":"bts:unsubscribe","data":{"channel":"live_trades_btcusd"}})");
  EXPECT_EQ(request("gemini", "BTCUSD"),
            R"({"type":"subscribe","subscriptions":[{"name":"l2","symbols":["BTCUSD"]}]})");
  EXPECT_EQ(
      find_venue("coinbase.advanced")->make(Stream::trade)->subscribe({"BTC-USD"}, Stream::trade, true),
      (std::vector<std::string>{R"({"type":"subscribe","channel":"market_trades","product_ids":["BTC-USD"]})",
                                R"({"type":"subscribe","channel":"heartbeats"})"}));
  EXPECT_EQ(find_venue("bybit")
                ->make(Stream::trade)
                ->subscribe(std::vector<std::string>(21, "A"), Stream::trade, true)
                .size(),
            3u);
  EXPECT_EQ(find_venue("okx")->make(Stream::trade)->heartbeat({})->text, "ping");
  EXPECT_EQ(wire_symbol(*find_venue("coinbase.advanced"), "BTC-USDC"), "BTC-USD");
  EXPECT_TRUE(spelled_for(*find_venue("okx"), "BTC-USDT-SWAP"));
  EXPECT_FALSE(spelled_for(*find_venue("gemini"), "BTC-USD"));
  const auto okx = find_venue("okx")->make(Stream::trade);
  EXPECT_EQ(*okx->history("BTC-USDT", {5, 9, Timestamp{}}, nullptr),
            "/api/v5/market/history-trades?instId=BTC-USDT&type=1&limit=100&after=10");
}

TEST(MoreVenues, HistoriesByTime) {
  const Timestamp now{std::chrono::microseconds(1'700'000'000'123'456)};
  const auto target = [&](const char* venue, std::chrono::seconds ago) {
    return *find_venue(venue)->make(Stream::any)->history("BTCUSD", {0, no_last, now - ago, now}, nullptr);
  };
  using std::chrono::seconds;
  EXPECT_EQ(target("bybit", seconds(1)), "/v5/market/recent-trade?category=spot&symbol=BTCUSD&limit=60");
  EXPECT_EQ(target("bybit.linear", seconds(1)),
            "/v5/market/recent-trade?category=linear&symbol=BTCUSD&limit=1000");
  EXPECT_EQ(target("bitstamp", seconds(30)), "/api/v2/transactions/btcusd/?time=minute");
  EXPECT_EQ(target("bitstamp", seconds(57)), "/api/v2/transactions/btcusd/?time=hour");
  EXPECT_EQ(target("bitstamp", seconds(3600)), "/api/v2/transactions/btcusd/?time=day");
  EXPECT_EQ(target("gemini", seconds(1)), "/v1/trades/BTCUSD?limit_trades=500&timestamp=1699999999123");

  const auto decode = [](const char* venue, std::string_view text, std::vector<Tick>& page) {
    return find_venue(venue)->make(Stream::any)->decode_history(text, "BTCUSD", Timestamp{}, page);
  };
  const auto one = [&](const char* venue, std::string_view text) {
    std::vector<Tick> page;
    EXPECT_EQ(decode(venue, text, page).verdict, Verdict::tick) << venue;
    EXPECT_EQ(page.size(), 1u);
    return page.at(0);
  };
  expect_tick(one("bitstamp", R"([{"date":"1641343699","tid":"216000477","amount":"0.07920000","type":"0",)"
                              R"("price":"3805.44"}])"),
              {"", "", "BTCUSD", 216000477, 3805.44, 0.0792, 1641343699000000, Maker::seller});
  expect_tick(one("gemini", R"([{"timestamp":1601617445,"timestampms":1601617445144,"tid":14122489752,)"
                            R"("price":"0.46476","amount":"28.407209","exchange":"gemini","type":"buy"}])"),
              {"", "", "BTCUSD", 14122489752, 0.46476, 28.407209, 1601617445144000, Maker::seller});
  const std::string bybit =
      R"({"retCode":0,"retMsg":"OK","result":{"category":"spot","list":[{"execId":"2100000000007764263",)"
      R"("symbol":"BTCUSD","price":"16618.49","size":"0.00012","side":"Buy","time":"1672052955758",)"
      R"("isBlockTrade":false}]},"retExtInfo":{},"time":1672053054358})";
  expect_tick(one("bybit", bybit),
              {"", "", "BTCUSD", 2100000000007764263, 16618.49, 0.00012, 1672052955758000, Maker::seller});
  // The same id, be it a UUID, as live.
  const std::string uuid = "20f43950-d8dd-5b31-9112-a178eb6023af";
  std::string linear = bybit;
  linear.replace(linear.find("2100000000007764263"), 19, uuid);
  std::vector<Tick> live;
  find_venue("bybit.linear")
      ->make(Stream::any)
      ->decode(R"({"topic":"publicTrade.BTCUSD","data":[{"i":")" + uuid +
                   R"(","T":1672052955758,"p":"16618.49","v":"0.00012","S":"Buy","s":"BTCUSD"}]})",
               Timestamp{}, live);
  EXPECT_EQ(one("bybit.linear", linear).id, live.at(0).id);

  std::vector<Tick> page;
  EXPECT_EQ(decode("bitstamp", "[]", page).verdict, Verdict::tick);
  EXPECT_EQ(decode("gemini", "[]", page).verdict, Verdict::tick);
  EXPECT_EQ(decode("bybit", R"({"retCode":0,"result":{"list":[]}})", page).verdict, Verdict::tick);
  EXPECT_EQ(decode("bybit", R"({"retCode":10006,"retMsg":"Too many visits!","result":{}})", page).verdict,
            Verdict::refused);
  std::string foreign = bybit;
  foreign.replace(foreign.find("BTCUSD"), 6, "ETHUSD");
  EXPECT_EQ(decode("bybit", foreign, page).verdict, Verdict::malformed);
  EXPECT_EQ(decode("gemini", R"({"result":"error","reason":"RateLimit"})", page).verdict, Verdict::refused);
  EXPECT_TRUE(page.empty());
  page.push_back(live[0]);
  const auto gemini = find_venue("gemini")->make(Stream::any);
  EXPECT_EQ(*gemini->history("BTCUSD", {}, &page),
            "/v1/trades/BTCUSD?limit_trades=500&since_tid=" + std::to_string(live[0].id));
}

// ---- recordings and messages that nobody here wrote

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

TEST(RealMessages, Okx) {
  const auto file = shared_data() / "recordings/okx/OKX.ws.1.0";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no recording " << file;
  std::map<Verdict, std::size_t> counts;
  const auto ticks = ticks_of(file, counts);
  EXPECT_EQ(counts[Verdict::malformed], 0u);
  ASSERT_EQ(ticks.size(), 74u);
  expect_tick(ticks.front(),
              {"okx", "", "BTC-USD-220527", 7849, 30218.8, 1, 1652459199958000, Maker::seller});
  expect_tick(ticks.back(),
              {"okx", "", "BTC-USDT", 338476375, 30227.6, 0.00000088, 1652459235576000, Maker::seller});
  EXPECT_EQ(ticks.back().exchange.view(), "okx");
  std::map<std::string, std::int64_t> last;  // ids of each instrument are contiguous
  for (const auto& tick : ticks) {
    auto& id = last[std::string(tick.symbol.view())];
    EXPECT_TRUE(id == 0 || tick.id == id + 1) << tick.id;
    id = tick.id;
  }
}

TEST(RealMessages, Bitstamp) {
  const auto file = shared_data() / "recordings/bitstamp/BITSTAMP.ws.1.0";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no recording " << file;
  std::map<Verdict, std::size_t> counts;
  const auto ticks = ticks_of(file, counts);
  EXPECT_EQ(counts[Verdict::malformed], 0u);
  ASSERT_EQ(ticks.size(), 10u);
  expect_tick(ticks.front(),
              {"bitstamp", "", "ETHUSD", 216000477, 3805.44, 0.0792, 1641343699596000, Maker::seller});
  expect_tick(ticks.back(),
              {"bitstamp", "", "ETHUSD", 216000506, 3800.8, 2.73248242, 1641343721269000, Maker::buyer});
}

TEST(RealMessages, Gemini) {
  const auto file = shared_data() / "recordings/gemini/GEMINI.ws.1.0";
  if (!std::filesystem::exists(file)) GTEST_SKIP() << "no recording " << file;
  std::map<Verdict, std::size_t> counts;
  const auto ticks = ticks_of(file, counts);
  EXPECT_EQ(counts[Verdict::malformed], 0u);
  ASSERT_EQ(ticks.size(), 516u);  // 10 snapshots of 50, 16 live
  std::set<std::pair<std::string, std::int64_t>> ids;
  const Tick* newest = nullptr;
  for (const auto& tick : ticks) {
    EXPECT_TRUE(ids.emplace(tick.symbol.view(), tick.id).second);
    if (tick.id == 45465785975) newest = &tick;
  }
  ASSERT_NE(newest, nullptr);  // the first of the first snapshot, as the exchange orders it
  expect_tick(*newest,
              {"gemini", "", "ALCXUSD", 45465785975, 302.53, 0.992143, 1624493651491000, Maker::seller});
  expect_tick(ticks.back(),
              {"gemini", "", "ALCXUSD", 45465890462, 303.05, 8.12974, 1624493694054000, Maker::seller});
}

TEST(RealMessages, SingleMessagesOfTheOthers) {
  const auto folder = shared_data() / "messages";
  if (!std::filesystem::exists(folder / "bybit_ws_public_trade.json")) GTEST_SKIP() << "no messages";
  const auto decoded = [&](const char* name, const char* venue, std::vector<Tick>& out) {
    std::ifstream file(folder / name);
    const std::string text(std::istreambuf_iterator<char>(file), {});
    return find_venue(venue)->make(Stream::trade)->decode(text, Timestamp{}, out).verdict;
  };
  std::vector<Tick> bybit;  // not seen live
  ASSERT_EQ(decoded("bybit_ws_public_trade.json", "bybit.linear", bybit), Verdict::tick);
  ASSERT_EQ(bybit.size(), 1u);
  expect_tick(bybit[0], {"bybit", "", "BTCUSDT", bybit[0].id, 27451, 0.01, 1709891679000000, Maker::seller});
  std::ifstream answer(folder / "bybit_http_get_trades_recent.json");
  ASSERT_EQ(find_venue("bybit.linear")
                ->make(Stream::trade)
                ->decode_history(std::string(std::istreambuf_iterator<char>(answer), {}), "BTCUSDT",
                                 Timestamp{}, bybit)
                .verdict,
            Verdict::tick);
  ASSERT_EQ(bybit.size(), 2u);
  expect_tick(bybit[1],
              {"bybit", "", "BTCUSDT", bybit[1].id, 27450.5, 0.005, 1709891679000000, Maker::seller});
  EXPECT_EQ(decoded("bybit_ws_subscription_ack.json", "bybit", bybit), Verdict::reply);
  EXPECT_EQ(decoded("bybit_ws_kline.json", "bybit", bybit), Verdict::ignored);
  std::vector<Tick> advanced;  // not seen live
  ASSERT_EQ(decoded("coinbase_ws_market_trades.json", "coinbase.advanced", advanced), Verdict::tick);
  ASSERT_EQ(advanced.size(), 2u);
  expect_tick(advanced[0], samples[4]);
  expect_tick(advanced[1], {"", "", "BTC-USD", 995098701, 68900, 0.05, 1775572202800000, Maker::seller});
  EXPECT_EQ(decoded("coinbase_ws_heartbeats.json", "coinbase.advanced", advanced), Verdict::ignored);
  EXPECT_EQ(decoded("coinbase_ws_subscriptions.json", "coinbase.advanced", advanced), Verdict::reply);
  EXPECT_EQ(decoded("coinbase_ws_candles.json", "coinbase.advanced", advanced), Verdict::ignored);
  std::vector<Tick> okx;
  ASSERT_EQ(decoded("okx_ws_trades.json", "okx", okx), Verdict::tick);
  expect_tick(okx[0], samples[0]);
  EXPECT_EQ(decoded("okx_ws_candle.json", "okx", okx), Verdict::ignored);
  std::ifstream file(folder / "okx_http_get_trades.json");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  std::vector<Tick> page;
  const auto feed = find_venue("okx")->make(Stream::trade);
  ASSERT_EQ(feed->decode_history(text, "BTC-USDT", Timestamp{}, page).verdict, Verdict::tick);
  ASSERT_EQ(page.size(), 2u);
  EXPECT_EQ(page[0].id, 734864332);
  expect_tick(page[1], {"", "", "BTC-USDT", 734864333, 102537.9, 0.00013669, 1747087163557000, Maker::buyer});
}

}  // namespace
