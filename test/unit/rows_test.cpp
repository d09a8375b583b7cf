// Numbers, times, CSV, JSON rows and record framings: text -> value, and nothing instead of a guess.
#include <gtest/gtest.h>

#include <zlib.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>

#include "ingestor/config.hpp"
#include "ingestor/number.hpp"
#include "ingestor/replay.hpp"
#include "ingestor/rows.hpp"
#include "mutations.hpp"

namespace {

using namespace tick::ingest;

std::int64_t micros(std::optional<Timestamp> time) {
  return time ? time->time_since_epoch().count() : -1;
}

TEST(Number, DecimalsAreCorrectlyRounded) {
  EXPECT_EQ(parse_decimal("61837.63000000"), 61837.63);
  EXPECT_EQ(parse_decimal("0.00141342"), 0.00141342);
  EXPECT_EQ(parse_decimal("9007199254740993"), 9007199254740992.0);  // a tie, to even
  EXPECT_EQ(parse_decimal("9007199254740993.0000000000000000000001"), 9007199254740994.0);
  EXPECT_EQ(parse_decimal("0.1000000000000000055511151231257827"), 0.1);
  EXPECT_EQ(parse_decimal("1e-5"), 1e-5);
  for (const auto* text :
       {"", " 1", "1 ", "+1", "1,5", "nan", "inf", "-inf", "0x1p3", "1e400", "1.2.3", "--1", "."})
    EXPECT_FALSE(parse_decimal(text)) << text;
}

TEST(Number, DecimalsRoundTripAsStrtod) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 20'000; ++i) {
    char text[64];
    std::snprintf(text, sizeof text, "%llu.%08llu", static_cast<unsigned long long>(random() % 100'000'000),
                  static_cast<unsigned long long>(random() % 100'000'000));
    ASSERT_EQ(parse_decimal(text), std::strtod(text, nullptr)) << text;
  }
}

TEST(Number, TimesInEveryUnit) {
  constexpr std::int64_t expected = 1570752011620000;
  EXPECT_EQ(micros(parse_time("1570752011620")), expected);
  EXPECT_EQ(micros(parse_time("1570752011620000")), expected);
  EXPECT_EQ(micros(parse_time("1570752011620000000")), expected);
  EXPECT_EQ(micros(parse_time("1570752011.62")), expected);
  EXPECT_EQ(micros(parse_time("1570752011")), 1570752011000000);
  EXPECT_EQ(micros(parse_time("1633998512.0633569")), 1633998512063356);
  EXPECT_EQ(micros(parse_time("2019-10-11T00:00:11.620Z")), expected);
  EXPECT_EQ(micros(parse_time("2019-10-11 00:00:11.62")), expected);
  EXPECT_EQ(micros(parse_time("2019-10-11 02:00:11.62+02")), expected);
  EXPECT_EQ(micros(parse_time("2019-10-10T20:30:11.620000000-0330")), expected);
  EXPECT_EQ(micros(parse_time("2019-10-11T00:00:11.620+00:00")), expected);
  EXPECT_EQ(micros(parse_time("2019-10-11")), 1570752000000000);
  for (const auto* text : {"", "0", "-1", "abc", "2019-13-01", "2019-02-30", "2019-10-11T24:00:00",
                           "2019-10-11T1:00", "0001-01-01T00:00:00.000000Z", "12:30", "1570752011,62",
                           "2019-10-11T00:00:11.620ZZ", "99999999999999999999"})
    EXPECT_FALSE(parse_time(text)) << text;
  EXPECT_EQ(format_time(*parse_time("1723161255342123")), "2024-08-08T23:54:15.342123Z");
  EXPECT_EQ(format_day(day_of(*parse_time("1723161255342")), '_'), "2024_08_08");
}

TEST(Number, Durations) {
  EXPECT_EQ(parse_duration("20ms"), std::chrono::milliseconds(20));
  EXPECT_EQ(parse_duration("1.5s"), std::chrono::milliseconds(1500));
  EXPECT_EQ(parse_duration("250us"), std::chrono::microseconds(250));
  EXPECT_EQ(parse_duration("7"), std::chrono::milliseconds(7));
  EXPECT_FALSE(parse_duration("-1s"));
  EXPECT_FALSE(parse_duration("fast"));
}

TEST(Csv, Splitting) {
  std::vector<std::string> fields;
  EXPECT_TRUE(split_csv("a,,\"b,\"\"c\"\"\",d", ',', fields));
  EXPECT_EQ(fields, (std::vector<std::string>{"a", "", "b,\"c\"", "d"}));
  EXPECT_FALSE(split_csv("a,\"b", ',', fields));
  EXPECT_TRUE(split_csv("", ',', fields));
  EXPECT_EQ(fields.size(), 1u);
}

TEST(Csv, HeaderNamesDecide) {
  CsvRows rows({});
  std::vector<Tick> out;
  EXPECT_EQ(rows.decode("\xef\xbb\xbfSymbol;Event_Time;Price;Quantity;Side\r", {}, out).verdict,
            Verdict::ignored);
  EXPECT_EQ(rows.decode("BTCUSDT;2024-08-08T23:54:15.342Z;61837.63;0.02;SELL\r", {}, out).verdict,
            Verdict::tick);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].symbol.view(), "BTCUSDT");
  EXPECT_EQ(out[0].price, 61837.63);
  EXPECT_EQ(out[0].maker, Maker::buyer);
  EXPECT_FALSE(out[0].has_id);
  EXPECT_EQ(rows.decode("BTCUSDT;1", {}, out).verdict, Verdict::malformed);
  EXPECT_EQ(rows.decode("BTCUSDT;1723161255342;x;1;buy", {}, out).verdict, Verdict::malformed);
}

TEST(Csv, ExportOfTheTradesTable) {
  CsvRows rows({});
  std::vector<Tick> out;
  rows.decode("exchange,symbol,ts,price,qty,trade_id,is_buyer_maker,received_at", {}, out);
  ASSERT_EQ(
      rows.decode("kraken,BTC/USD,2024-08-08 23:54:15.342+00,1.5,2.5,77,f,2024-08-08 23:54:16+00", {}, out)
          .verdict,
      Verdict::tick);
  EXPECT_EQ(out[0].exchange.view(), "kraken");
  EXPECT_EQ(out[0].id, 77);
  EXPECT_EQ(out[0].maker, Maker::seller);
  EXPECT_EQ(micros(out[0].received), 1723161256000000);
}

TEST(Csv, DumpsWithoutHeader) {
  RowOptions options;
  options.symbol = "BTCUSDT";
  std::vector<Tick> out;
  CsvRows trades(options);
  ASSERT_EQ(trades.decode("28457,4.00000100,12.00000000,48.000012,1499865549590,True,True", {}, out).verdict,
            Verdict::tick);
  EXPECT_EQ(out[0].id, 28457);
  EXPECT_EQ(out[0].price, 4.000001);
  EXPECT_EQ(micros(out[0].ts), 1499865549590000);
  EXPECT_EQ(out[0].maker, Maker::buyer);
  CsvRows aggregates(options);
  ASSERT_EQ(aggregates.decode("26129,0.01633102,4.70443515,27781,27781,1498793709153000,False,True", {}, out)
                .verdict,
            Verdict::tick);
  EXPECT_EQ(out[1].maker, Maker::seller);
  EXPECT_EQ(micros(out[1].ts), 1498793709153000);
}

TEST(Csv, ColumnsAsTold) {
  std::string mistake;
  RowOptions options;
  options.symbol = "XBTUSD";
  options.columns = *parse_columns("ts=1,price=2,qty=3", mistake);
  CsvRows rows(options);
  std::vector<Tick> out;
  ASSERT_EQ(rows.decode("1381095255,122.0,0.1", {}, out).verdict, Verdict::tick);
  EXPECT_EQ(out[0].price, 122.0);
  EXPECT_FALSE(parse_columns("when=1", mistake));
  EXPECT_NE(mistake.find("when=1"), std::string::npos);
  CsvRows guess({});
  EXPECT_THROW(guess.decode("1,2,3", {}, out), std::runtime_error);
}

TEST(Csv, TimesWithoutZoneAreRefusedOrTold) {
  const std::string_view header = "symbol,ts,price";
  const std::string_view bare = "A,2024-07-01 12:00:00.5,1";
  for (const auto offset : {std::optional<std::chrono::minutes>(), parse_offset("UTC"),
                            parse_offset("+02:00"), parse_offset("-0530")}) {
    RowOptions options;
    options.offset = offset;
    CsvRows rows(options);
    std::vector<Tick> ticks;
    rows.decode(header, {}, ticks);
    const auto decoded = rows.decode(bare, {}, ticks);
    EXPECT_EQ(decoded.verdict, offset ? Verdict::tick : Verdict::malformed);
    if (offset) {
      EXPECT_EQ(ticks.at(0).ts, *parse_time("2024-07-01T12:00:00.5Z") - *offset);
    }
    ticks.clear();
    for (const auto* line :
         {"A,2024-07-01T12:00:00.5Z,1", "A,2024-07-01 14:00:00.5+02,1", "A,1719835200500,1"}) {
      EXPECT_EQ(rows.decode(line, {}, ticks).verdict, Verdict::tick) << line;
      EXPECT_EQ(ticks.back().ts, *parse_time("2024-07-01T12:00:00.5Z")) << line;
    }
  }
  EXPECT_EQ(parse_offset("-0530"), std::chrono::minutes(-330));
  EXPECT_EQ(parse_offset("+02"), std::chrono::minutes(120));
  for (const auto* text : {"", "2", "Europe/Paris", "+2", "+02:0", "+16:00", "+02:60", "+ab"})
    EXPECT_FALSE(parse_offset(text)) << text;
}

TEST(JsonRow, FlatObjectsAndRawInfo) {
  JsonRows rows({});
  std::vector<Tick> out;
  ASSERT_EQ(
      rows.decode(
              R"({"symbol":"BTC/USD","side":"buy","price":105944.20,"qty":0.00027625,"trade_id":10218208,)"
              R"("timestamp":"2023-10-06T17:35:55.440295Z"})",
              {}, out)
          .verdict,
      Verdict::tick);
  EXPECT_EQ(out[0].symbol.view(), "BTC/USD");
  EXPECT_EQ(out[0].price, 105944.2);
  EXPECT_EQ(out[0].maker, Maker::seller);
  ASSERT_EQ(
      rows.decode(
              R"({"info":{"a":5,"p":"0.30000000000000004","q":"2","f":1,"l":1,"T":1570752011620,"m":true},)"
              R"("symbol":"XRP/ETH","price":0.3,"amount":9,"timestamp":1})",
              {}, out)
          .verdict,
      Verdict::tick);
  EXPECT_EQ(out[1].symbol.view(), "XRPETH");
  EXPECT_EQ(out[1].price, 0.30000000000000004);
  EXPECT_EQ(out[1].qty, 2);
  EXPECT_EQ(micros(out[1].ts), 1570752011620000);
  EXPECT_EQ(rows.decode(R"({"price":1})", {}, out).verdict, Verdict::malformed);
  EXPECT_EQ(rows.decode("{", {}, out).verdict, Verdict::malformed);
}

TEST(Framing, IsDetectedFromTheFirstBytes) {
  EXPECT_EQ(detect_framing("1723161253937085768 {\"stream\":1}\n"), Framing::nanoseconds);
  EXPECT_EQ(detect_framing("wss://h/stream <-> 1633998511.159679\n"), Framing::connection);
  EXPECT_EQ(detect_framing("1633998512.0633569: {\"stream\":1}\n"), Framing::connection);
  EXPECT_EQ(detect_framing(" [\n{"), Framing::array);
  EXPECT_EQ(detect_framing("{\"e\":1}\n"), Framing::lines);
  EXPECT_EQ(detect_framing("id,price\n"), Framing::csv);
  EXPECT_FALSE(unframe(Framing::connection, "wss://h/stream <- 1633998511.159679: {\"method\":1}"));
  const auto record = unframe(Framing::connection, "1633998512.0633569: b'{\"a\":1}'");
  ASSERT_TRUE(record);
  EXPECT_EQ(record->text, "{\"a\":1}");
}

// A file that disappears with the test.
struct ScratchFile {
  explicit ScratchFile(const std::string& text, bool gzip = false)
      : path(std::filesystem::temp_directory_path() / ("tick_rows_test_" + std::to_string(::getpid()))) {
    gzFile file = gzopen(path.c_str(), gzip ? "wb" : "wbT");
    gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
    gzclose(file);
  }
  ~ScratchFile() { std::filesystem::remove(path); }
  std::filesystem::path path;
};

TEST(RecordReader, ArrayElementsWithBracesInStrings) {
  for (const bool gzip : {false, true}) {
    const ScratchFile file(R"([ {"a":"]},[{\"","b":[1,{"c":2}]} ,{"a":2},
      {"a":3} ])",
                           gzip);
    RecordReader reader(file.path.string());
    EXPECT_EQ(reader.framing(), Framing::array);
    std::vector<std::string> texts;
    Record record;
    while (reader.next(record)) {
      texts.emplace_back(record.text);
      EXPECT_EQ(record.number, texts.size());
    }
    EXPECT_EQ(texts,
              (std::vector<std::string>{R"({"a":"]},[{\"","b":[1,{"c":2}]})", R"({"a":2})", R"({"a":3})"}));
  }
}

TEST(RecordReader, NumbersCountEveryLineAndEmptyArraysEnd) {
  {
    const ScratchFile file("{\"e\":1}\n\n{\"e\":2}");
    RecordReader reader(file.path.string());
    Record record;
    ASSERT_TRUE(reader.next(record));
    EXPECT_EQ(record.number, 1u);
    ASSERT_TRUE(reader.next(record));
    EXPECT_EQ(record.number, 3u);
    EXPECT_FALSE(reader.next(record));
  }
  {
    const ScratchFile file("[]");
    RecordReader reader(file.path.string());
    Record record;
    EXPECT_FALSE(reader.next(record));
  }
  {
    const ScratchFile file("[{\"a\":1}");
    RecordReader reader(file.path.string());
    Record record;
    EXPECT_THROW(while (reader.next(record)){}, std::runtime_error);
  }
  EXPECT_THROW(RecordReader("no/such/file"), std::runtime_error);
}

TEST(RecordReader, IdentityFollowsTheContentAndSurvivesGrowth) {
  std::string first;
  {
    const ScratchFile file("ts,price\n1,2\n");
    first = file_identity(file.path.string());
  }
  {
    const ScratchFile file("ts,price\n1,2\n3,4\n5,6\n");
    EXPECT_EQ(file_identity(file.path.string()), first);
  }
  {
    const ScratchFile file("ts,price\n1,3\n");
    EXPECT_NE(file_identity(file.path.string()), first);
  }
  EXPECT_EQ(symbol_of_file("/x/BTCUSDT-aggTrades-2024-08-08.csv"), "BTCUSDT");
  EXPECT_EQ(symbol_of_file("trades.csv"), "");
}

TEST(JsonItems, CoinLoreAndCoinGecko) {
  RowOptions lore;
  lore.items = "/data";
  std::string mistake;
  lore.columns = *parse_columns("symbol=/symbol,ts=^/info/time,price=/price_usd", mistake);
  std::vector<Tick> out;
  const char* answer =
      R"({"data":[{"id":"90","symbol":"BTC","rank":1,"price_usd":"77146.66","volume24":26551212429.49,"msupply":"21000000"},)"
      R"({"id":"91","symbol":"X","price_usd":"0"},{"id":"80","symbol":"ETH","price_usd":3000.5}],"info":{"coins_num":14993,"time":1788363842}})";
  const Decoded decoded = JsonItems(lore).decode(answer, Timestamp{}, out);
  EXPECT_EQ(decoded.verdict, Verdict::tick);
  EXPECT_EQ(decoded.bad, 1u);
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0].symbol.view(), "BTC");
  EXPECT_EQ(out[0].price, 77146.66);
  EXPECT_EQ(out[0].ts.time_since_epoch().count(), 1788363842000000);
  EXPECT_FALSE(out[0].has_qty || out[0].has_id);
  EXPECT_EQ(out[1].price, 3000.5);

  // Names as far as they fit, whole characters of UTF-8.
  lore.columns = *parse_columns("symbol=/id,ts=^/info/time,price=/price_usd,name=/name", mistake);
  out.clear();
  JsonItems(lore).decode(
      R"({"data":[{"id":"1","name":"Ethereum Classic","price_usd":1},{"id":"2","name":"12345678901234567890123456789\u00e4\u00f6","price_usd":1}],)"
      R"("info":{"time":1788363842}})",
      Timestamp{}, out);
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0].name.view(), "Ethereum Classic");
  EXPECT_EQ(out[1].name.view(), "12345678901234567890123456789\xc3\xa4");

  RowOptions gecko;
  gecko.columns = *parse_columns("symbol=@key,ts=/last_updated_at,price=/usd", mistake);
  out.clear();
  EXPECT_EQ(
      JsonItems(gecko)
          .decode(R"({"bitcoin":{"usd":64250.123456789,"last_updated_at":1711356300}})", Timestamp{}, out)
          .verdict,
      Verdict::tick);
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].symbol.view(), "bitcoin");
  EXPECT_EQ(out[0].price, 64250.123456789);
  for (const char* text : {"", "[", "7", R"({"a":1})", R"({"error":{"status":"rate limit"}})"}) {
    out.clear();
    EXPECT_EQ(JsonItems(gecko).decode(text, Timestamp{}, out).verdict, Verdict::malformed) << text;
    EXPECT_TRUE(out.empty());
  }
}

TEST(JsonItems, WhatIsMissingIsNamed) {
  const auto why = [](const char* columns) {
    RowOptions options;
    std::string mistake;
    options.columns = *parse_columns(columns, mistake);
    std::vector<Tick> out;
    return std::string(
        JsonItems(options).decode(R"([{"s":"X","t":1711356300,"p":1}])", Timestamp{}, out).reason);
  };
  EXPECT_EQ(why("symbol=/s,ts=/t,price=/p"), "");
  EXPECT_EQ(why("symbol=/x,ts=/t,price=/p").substr(0, 40), "no symbol where --columns looks for it (");
  EXPECT_EQ(why("symbol=/s,ts=/x,price=/p"), "no time where --columns looks for it");
  EXPECT_EQ(why("symbol=/s,ts=/t,price=/x"), "no price where --columns looks for it");
  EXPECT_EQ(why("symbol=/s,ts=/s,price=/p"), "impossible time");
}

// CoinLore has not been seen live: this is an item and an info of its documentation, quoted by others.
TEST(JsonItems, TheFileInShared) {
  const char* root = std::getenv("TICK_SHARED");
  const auto path =
      std::filesystem::path(root != nullptr ? root : "../shared") / "data/messages/coinlore_tickers.json";
  std::ifstream file(path);
  if (!file) GTEST_SKIP() << "no message " << path;
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const auto config = read_config({"", "", {}, {{"--feed", "coinlore"}}}).config;
  RowOptions options;
  std::string mistake;
  options.items = config.items;
  options.columns = *parse_columns(config.columns, mistake);
  std::vector<Tick> out;
  const Decoded decoded = JsonItems(options).decode(text, Timestamp{}, out);
  EXPECT_EQ(decoded.verdict, Verdict::tick);
  EXPECT_EQ(decoded.bad, 0u);
  std::cout << path.filename().string() << ": " << out.size() << " prices\n";
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(out[0].symbol.view(), "BTC");
  EXPECT_EQ(out[0].price, 77146.66);
  EXPECT_EQ(out[0].ts.time_since_epoch().count(), 1788363842000000);
  EXPECT_FALSE(out[0].has_qty || out[0].has_id);
}

TEST(JsonItems, MutationsNeverBreakThem) {
  std::mt19937 random = seeded_random();
  RowOptions options;
  options.items = "/data";
  std::string mistake;
  options.columns =
      *parse_columns("symbol=/symbol,ts=^/info/time,price=/price_usd,qty=/v,name=/name", mistake);
  JsonItems items(options);
  constexpr std::string_view document =
      R"({"data":[{"symbol":"BTC","name":"Bitcoin","price_usd":"77146.66","v":2.5},{"symbol":"ETH","price_usd":3e3}],"info":{"time":1788363842}})";
  std::size_t ticks = 0;
  std::vector<Tick> out;
  for (int i = 0; i < 30'000; ++i) {
    std::string text(document);
    if (i % 4 == 0) text.resize(random() % text.size());
    for (auto edits = random() % 5; edits > 0 && !text.empty(); --edits)
      text[random() % text.size()] =
          random() % 2 == 0 ? "{}[]\":,.-e0"[random() % 11] : static_cast<char>(random());
    out.clear();
    const Decoded decoded = items.decode(text, Timestamp{}, out);
    ASSERT_EQ(out.empty(), decoded.verdict != Verdict::tick) << text;
    for (const auto& tick : out) {
      ++ticks;
      ASSERT_TRUE(tick.price > 0 && !(tick.qty < 0) && !tick.symbol.view().empty()) << text;
    }
    if (i % 1000 != 0) continue;
    out.clear();
    ASSERT_EQ(items.decode(document, Timestamp{}, out).verdict, Verdict::tick);
    ASSERT_EQ(out.size(), 2u);
  }
  EXPECT_GT(ticks, 1000u);
}

}  // namespace
