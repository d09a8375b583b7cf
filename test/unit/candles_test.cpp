// Candles out of files, and the sessions of markets that close.
#include <gtest/gtest.h>

#include "ingestor/calendar.hpp"
#include "ingestor/candles.hpp"
#include "ingestor/number.hpp"

namespace {

using namespace tick::ingest;

TEST(Candles, SizesAndNamesOfDumps) {
  EXPECT_EQ(candle_size("1m"), "1 minute");
  EXPECT_EQ(candle_size("1mo"), "1 month");
  EXPECT_EQ(candle_size("4h"), "4 hour");
  for (const char* text : {"", "m", "0m", "1x", "1 m", "-1m", "5000m"})
    EXPECT_EQ(candle_size(text), "") << text;
  EXPECT_EQ(candle_file("a/b-c/BTCUSDT-1s-2024-08-08.zip").symbol, "BTCUSDT");
  EXPECT_EQ(candle_file("BTCUSDT-1d-2024-08.csv.gz").size, "1 day");
  EXPECT_EQ(candle_file("BTCUSDT-trades-2024-08-08.zip").symbol, "");
  EXPECT_EQ(candle_file("1m.csv").symbol, "");
}

constexpr const char* dumped =
    "1499040000000,0.01634790,0.80000000,0.01575800,0.01577100,148976.11427815,1499644799999,2434.19055334,"
    "308,"
    "1756.87402397,28.46694368,0";
constexpr const char* answered =
    "1499040000000,\n \"0.01634790\",\n \"0.80000000\", \"0.01575800\", \"0.01577100\",\n "
    "\"148976.11427815\",\n "
    "1499644799999, \"2434.19055334\", 308, \"1756.87402397\", \"28.46694368\", \"0\"\n]";

TEST(Candles, DumpsAndAnswersSayTheSame) {
  for (const auto& [framing, text] : {std::pair{Framing::csv, dumped}, std::pair{Framing::array, answered}}) {
    CandleRows rows(std::nullopt);
    ASSERT_TRUE(rows.recognises(framing, text));
    Candle candle;
    ASSERT_EQ(rows.decode(text, candle).verdict, Verdict::tick);
    EXPECT_EQ(format_time(candle.ts), "2017-07-03T00:00:00.000000Z");
    EXPECT_EQ(candle.size, std::chrono::days(7));
    EXPECT_EQ(candle.digits[Candle::open], "0.01634790");
    EXPECT_EQ(candle.digits[Candle::high], "0.80000000");
    EXPECT_EQ(candle.digits[Candle::low], "0.01575800");
    EXPECT_EQ(candle.digits[Candle::close], "0.01577100");
    EXPECT_EQ(candle.digits[Candle::volume], "148976.11427815");
    EXPECT_EQ(candle.digits[Candle::quote_volume], "2434.19055334");
    EXPECT_EQ(candle.digits[Candle::trades], "308");
  }
  // In microseconds, as spot dumps are since 2025.
  CandleRows rows(std::nullopt);
  const char* text = "1735689600000000,1,2,1,2,3,1735689600999999,4,5,6,7,0\r";
  Candle candle;
  ASSERT_TRUE(rows.recognises(Framing::csv, text));
  ASSERT_EQ(rows.decode(text, candle).verdict, Verdict::tick);
  EXPECT_EQ(format_time(candle.ts), "2025-01-01T00:00:00.000000Z");
  EXPECT_EQ(candle.size, std::chrono::seconds(1));
}

TEST(Candles, NamedColumnsAndZones) {
  const char* header = "Date,Close,Low,High,Open,Volume";
  CandleRows rows(std::nullopt), placed(std::chrono::minutes(120));
  ASSERT_TRUE(rows.recognises(Framing::csv, header));
  ASSERT_TRUE(placed.recognises(Framing::csv, header));
  Candle candle;
  EXPECT_EQ(rows.decode(header, candle).verdict, Verdict::ignored);
  EXPECT_EQ(placed.decode(header, candle).verdict, Verdict::ignored);
  ASSERT_EQ(rows.decode("2019-10-11T00:00:00.000000000+0000,4,1,5,2,", candle).verdict, Verdict::tick);
  EXPECT_EQ(candle.digits[Candle::open], "2");
  EXPECT_EQ(candle.digits[Candle::volume], "");
  EXPECT_EQ(candle.size.count(), 0);
  EXPECT_EQ(rows.decode("2019-10-11 02:00:00,4,1,5,2,1", candle).verdict, Verdict::malformed);
  ASSERT_EQ(placed.decode("2019-10-11 02:00:00,4,1,5,2,1", candle).verdict, Verdict::tick);
  EXPECT_EQ(format_time(candle.ts), "2019-10-11T00:00:00.000000Z");
}

TEST(Candles, WhatIsNone) {
  for (const char* text : {"3735683259,61837.63,0.02,1236.7526,1723161255342,True,True", "ts,price,qty",
                           "open,high,low,close", "", "a,b,c,d,e,f,g,h,i,j,k,l"})
    EXPECT_FALSE(CandleRows(std::nullopt).recognises(Framing::csv, text)) << text;
  EXPECT_FALSE(CandleRows(std::nullopt).recognises(Framing::array, R"({"id":1})"));
  EXPECT_FALSE(CandleRows(std::nullopt).recognises(Framing::lines, dumped));
  CandleRows rows(std::nullopt);
  ASSERT_TRUE(rows.recognises(Framing::csv, dumped));
  Candle candle;
  for (const char* text :
       {"", "1499040000000", "1499040000000,1,2,1,2", "x,1,2,1,2,3,1499040059999,4,5,6,7,0",
        "1499040000000,0,2,1,2,3,1499040059999,4,5,6,7,0",
        "1499040000000,1,2,1,2.5,3,1499040059999,4,5,6,7,0",
        "1499040000000,1,2,1.5,2,3,1499040059999,4,5,6,7,0",
        "1499040000000,1,2,1,2,-3,1499040059999,4,5,6,7,0",
        "1499040000000,1,2,1,2,3,1499040059999,4,5.5,6,7,0",
        "1499040000000,1,nan,1,2,3,1499040059999,4,5,6,7,0"}) {
    const auto verdict = rows.decode(text, candle).verdict;
    if (std::string_view(text) == "1499040000000,1,2,1,2")
      EXPECT_EQ(verdict, Verdict::tick);  // without volume
    else
      EXPECT_EQ(verdict, Verdict::malformed) << text;
  }
}

bool open_at(const Calendar& calendar, const char* time) {
  return calendar.open(*parse_time(time));
}

TEST(Calendar, SessionsInLocalTime) {
  Calendar calendar;
  EXPECT_TRUE(calendar.always());
  EXPECT_TRUE(open_at(calendar, "2026-03-08T03:00:00Z"));
  ASSERT_EQ(calendar.set_zone("America/New_York"), "");
  ASSERT_EQ(calendar.set_days("Mon-Fri"), "");
  ASSERT_EQ(calendar.set_hours("09:30-16:00"), "");
  ASSERT_EQ(calendar.set_holidays("2026-12-25, 2027-01-01"), "");
  EXPECT_FALSE(open_at(calendar, "2026-03-06T14:29:59Z"));  // winter
  EXPECT_TRUE(open_at(calendar, "2026-03-06T14:30:00Z"));
  EXPECT_TRUE(open_at(calendar, "2026-03-06T20:59:59Z"));
  EXPECT_FALSE(open_at(calendar, "2026-03-06T21:00:00Z"));
  EXPECT_FALSE(open_at(calendar, "2026-03-07T15:00:00Z"));  // a Saturday
  EXPECT_FALSE(open_at(calendar, "2026-03-09T13:29:59Z"));  // summer
  EXPECT_TRUE(open_at(calendar, "2026-03-09T13:30:00Z"));
  EXPECT_FALSE(open_at(calendar, "2026-12-25T16:00:00Z"));
  EXPECT_TRUE(open_at(calendar, "2026-12-28T16:00:00Z"));

  // Futures: Sunday to Friday, until the next day; the day of the beginning counts.
  ASSERT_EQ(calendar.set_days("Sun,Mon-Thu"), "");
  ASSERT_EQ(calendar.set_hours("18:00-17:00"), "");
  EXPECT_FALSE(open_at(calendar, "2026-07-05T21:59:00Z"));
  EXPECT_TRUE(open_at(calendar, "2026-07-05T22:00:00Z"));   // Sunday evening
  EXPECT_TRUE(open_at(calendar, "2026-07-06T20:59:00Z"));   // until Monday afternoon
  EXPECT_FALSE(open_at(calendar, "2026-07-06T21:30:00Z"));  // the pause
  EXPECT_TRUE(open_at(calendar, "2026-07-10T20:59:00Z"));   // Thursday's, on Friday
  EXPECT_FALSE(open_at(calendar, "2026-07-10T22:30:00Z"));
  EXPECT_TRUE(open_at(calendar, "2026-12-25T21:00:00Z"));  // that of the day before the holiday
  EXPECT_FALSE(open_at(calendar, "2026-12-25T23:30:00Z"));
  EXPECT_EQ(calendar.days(), "Sun,Mon,Tue,Wed,Thu");
  EXPECT_EQ(calendar.hours(), "18:00-17:00");
  EXPECT_EQ(calendar.holidays(), "2026-12-25,2027-01-01");
}

TEST(Calendar, MistakesAreNamedAndChangeNothing) {
  Calendar calendar;
  for (const char* text : {"", "Mars/Olympus", "../../etc/passwd", "/etc/passwd", "America"})
    EXPECT_NE(calendar.set_zone(text), "") << text;
  for (const char* text : {"", "Mo", "Mon-", "Mon-Fri-Sun", "Monday", "1-5"})
    EXPECT_NE(calendar.set_days(text), "") << text;
  for (const char* text :
       {"", "9:30-16:00", "09:30", "09:30-16:60", "24:00-10:00", "09:30-25:00", "09:30-16:00,"})
    EXPECT_NE(calendar.set_hours(text), "") << text;
  for (const char* text : {"", "2026-13-01", "25.12.2026", "2026-12-25,,"})
    EXPECT_NE(calendar.set_holidays(text), "") << text;
  EXPECT_TRUE(calendar.always());
  EXPECT_EQ(calendar.zone(), "UTC");
}

}  // namespace
