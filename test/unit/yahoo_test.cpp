// Yahoo's streamer in both framings: a real message field by field, made ones, and broken ones.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "ingestor/wire.hpp"
#include "mutations.hpp"

namespace {

using namespace tick::ingest;

// What yfinance's tests have: BTC-USD on 2025-01-10.
constexpr std::string_view real =
    "CgdCVEMtVVNEFYoMuUcYwLCVgIplIgNVU0QqA0NDQzApOAFFPWrEP0iAgOrxvANVx/25R12csrRHZYD8skR9/"
    "7i0R7ABgIDq8bwD2AEE4AGAgOrxvAPoAYCA"
    "6vG8A/IBA0JUQ4ECAAAAwPrjckGJAgAA2P5ZT3tC";

std::string enveloped(std::string_view message) {
  return R"({"type":"pricing","message":")" + std::string(message) + "\"}";
}

Verdict decode(Feed& feed, std::string_view text, std::vector<Tick>& out, Timestamp received = {}) {
  out.clear();
  const auto verdict = feed.decode(text, received, out).verdict;
  EXPECT_EQ(out.empty(), verdict != Verdict::tick) << text;
  return verdict;
}

TEST(Yahoo, RealMessage) {
  for (const bool json : {false, true}) {
    const auto feed = make_yahoo_feed(Stream::any);
    std::vector<Tick> out;
    ASSERT_EQ(decode(*feed, json ? enveloped(real) : std::string(real) + "\n", out), Verdict::tick);
    EXPECT_EQ(out[0].symbol.view(), "BTC-USD");
    EXPECT_EQ(out[0].price, 94745.08);  // not 94745.078125
    EXPECT_EQ(out[0].ts.time_since_epoch().count(), 1736509140000000);
    EXPECT_TRUE(out[0].has_id);
    EXPECT_EQ(out[0].id, 59712028672);
    EXPECT_FALSE(out[0].has_qty);
  }
}

TEST(Yahoo, TheFileInSharedIsThisOne) {
  const char* root = std::getenv("TICK_SHARED");
  const auto path = std::filesystem::path(root != nullptr ? root : "../shared") /
                    "data/messages/yahoo/btc_usd_v1.base64.txt";
  std::ifstream file(path);
  if (!file) GTEST_SKIP() << "no message " << path;
  std::string text;
  std::getline(file, text);
  EXPECT_EQ(text, real);
}

std::string made(const char* price, std::int64_t volume, std::int64_t ms = 1736509140000,
                 Protocol how = Protocol::yahoo) {
  std::string out;
  append_message(out, how, {"AAPL", 1, price, "1", ms * 1000, false}, "AAPL", volume);
  return out;
}

TEST(Yahoo, QuantityIsWhatTheDaysVolumeGrewBy) {
  const auto feed = make_yahoo_feed(Stream::any);
  std::vector<Tick> out;
  const struct {
    std::int64_t volume;
    double qty;  // 0: none
  } cases[] = {{1000, 0}, {1000, 0}, {1250, 250}, {1251, 1}, {1249, 0}, {1260, 9}, {40, 0}, {41, 1}};
  for (const auto& is : cases) {
    ASSERT_EQ(decode(*feed, made("187.25", is.volume, 1736509140000, Protocol::yahoo_v2), out),
              Verdict::tick);
    EXPECT_EQ(out[0].price, 187.25);
    EXPECT_EQ(out[0].id, is.volume);
    EXPECT_EQ(out[0].has_qty, is.qty > 0) << is.volume;
    EXPECT_EQ(out[0].qty, is.qty) << is.volume;
  }
  ASSERT_EQ(decode(*feed, made("187.25", 0), out), Verdict::tick);
  EXPECT_FALSE(out[0].has_id || out[0].has_qty);  // an index has no volume
}

TEST(Yahoo, WhatCannotBeAPrice) {
  const auto feed = make_yahoo_feed(Stream::any);
  std::vector<Tick> out;
  const Timestamp received{std::chrono::milliseconds(1736509140000)};
  const struct {
    std::string text;
    Verdict verdict;
  } cases[] = {
      {made("0", 5), Verdict::malformed},
      {made("-3", 5), Verdict::malformed},
      {made("1e39", 5), Verdict::malformed},
      {made("5", 5, 0), Verdict::malformed},
      {made("5", 5, 1736509140000 + 2 * 86'400'000), Verdict::malformed},
      {"", Verdict::malformed},
      {"=", Verdict::malformed},
      {"%%%%", Verdict::malformed},
      {"AAAA", Verdict::malformed},
      {"CgdCVEMtVVNEFYoMuUc", Verdict::malformed},  // ends before its time
      {"{}", Verdict::unknown},
      {R"({"type":"status","message":"hello"})", Verdict::ignored},
      {R"({"type":"pricing"})", Verdict::malformed},
      {R"({"type":"pricing","message":""})", Verdict::malformed},
      {enveloped(real).substr(0, 90), Verdict::malformed},
  };
  for (const auto& is : cases) EXPECT_EQ(decode(*feed, is.text, out, received), is.verdict) << is.text;
}

TEST(Yahoo, MutationsNeverBreakIt) {
  std::mt19937 random = seeded_random();
  const auto feed = make_yahoo_feed(Stream::any);
  std::vector<Tick> out;
  std::size_t ticks = 0;
  for (int i = 0; i < 40'000; ++i) {
    std::string text(i % 2 == 0 ? std::string(real) : enveloped(real));
    text.resize(text.size() - random() % (i % 3 == 0 ? text.size() : 1));
    for (auto edits = random() % 4; edits > 0 && !text.empty(); --edits)
      text[random() % text.size()] =
          random() % 2 == 0 ? real[random() % real.size()] : static_cast<char>(random());
    if (decode(*feed, text, out) == Verdict::tick) {
      ++ticks;
      ASSERT_TRUE(out[0].price > 0 && out[0].id >= 0 && !out[0].symbol.view().empty()) << text;
      ASSERT_TRUE(!out[0].has_qty || out[0].qty > 0) << text;
    }
    if (i % 1000 != 0) continue;
    ASSERT_EQ(decode(*feed, real, out), Verdict::tick);
  }
  EXPECT_GT(ticks, 0u);
}

TEST(Yahoo, Requests) {
  const auto feed = make_yahoo_feed(Stream::any);
  EXPECT_EQ(feed->subscribe({"AAPL", "BTC-USD"}, Stream::any, true).at(0),
            R"({"subscribe":["AAPL","BTC-USD"]})");
  EXPECT_EQ(feed->subscribe({"AAPL"}, Stream::any, false).at(0), R"({"unsubscribe":["AAPL"]})");
  EXPECT_EQ(feed->heartbeat({"AAPL"})->text, R"({"subscribe":["AAPL"]})");
  EXPECT_EQ(feed->heartbeat({"AAPL"})->every, std::chrono::seconds(15));
  EXPECT_FALSE(feed->heartbeat({}));
  for (const char* symbol : {"AAPL", "BTC-USD", "EURUSD=X", "^GSPC"})
    EXPECT_TRUE(spelled_for(*find_venue("yahoo"), symbol)) << symbol;
}

}  // namespace
