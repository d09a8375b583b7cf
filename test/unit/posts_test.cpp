// Posts: real Jetstream events and broken ones, what a text is about, and what it says; the lexicon against
// tweets that it was not written from.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>

#include <simdjson.h>

#include "ingestor/feeds/jetstream.hpp"
#include "ingestor/mentions.hpp"
#include "ingestor/sentiment.hpp"
#include "mutations.hpp"

namespace {

using namespace tick::ingest;

constexpr std::string_view event =
    R"({"did":"did:plc:dclwtltrt2ggsryagfzk7dp4","time_us":1783175888090631,"kind":"commit","commit":{)"
    R"("rev":"3mptbypcq372f","operation":"create","collection":"app.bsky.feed.post","rkey":"3mptbyoeyc22k",)"
    R"("record":{"$type":"app.bsky.feed.post","createdAt":"2026-07-04T14:38:06.240Z","facets":[{"index":{}}],)"
    R"("langs":["en"],"text":"$BTC up\n\ud83d\ude80"},"cid":"bafy"}})";

std::filesystem::path shared_data() {
  const char* root = std::getenv("TICK_SHARED");
  return std::filesystem::path(root != nullptr ? root : "../shared") / "data";
}

std::string with(std::string_view from, std::string_view to) {
  std::string text(event);
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

struct Seen {
  Verdict verdict;
  std::int64_t cursor = 0;
  Post post;
};
Seen decode(std::string_view text, Timestamp received = {}) {
  Jetstream stream;
  Seen seen;
  seen.verdict = stream.decode(text, received, seen.post, seen.cursor).verdict;
  return seen;
}

TEST(Jetstream, APostFieldByField) {
  const auto seen = decode(event);
  ASSERT_EQ(seen.verdict, Verdict::tick);
  EXPECT_EQ(seen.cursor, 1783175888090631);
  EXPECT_EQ(seen.post.cursor, seen.cursor);
  EXPECT_EQ(seen.post.ts.time_since_epoch().count(), seen.cursor);
  EXPECT_EQ(seen.post.author, "did:plc:dclwtltrt2ggsryagfzk7dp4");
  EXPECT_EQ(seen.post.id, "did:plc:dclwtltrt2ggsryagfzk7dp4/3mptbyoeyc22k");
  EXPECT_EQ(seen.post.text, "$BTC up\n\xf0\x9f\x9a\x80");
}

TEST(Jetstream, WhatIsNoNewPost) {
  const struct {
    std::string text;
    Verdict verdict;
    bool cursor;
  } cases[] = {
      {with("\"create\"", "\"delete\""), Verdict::ignored, true},
      {with("\"create\"", "\"update\""), Verdict::ignored, true},
      {with("feed.post\",\"rkey", "feed.like\",\"rkey"), Verdict::ignored, true},
      {with("\"commit\",\"commit\"", "\"identity\",\"commit\""), Verdict::ignored, true},
      {with("\"kind\":\"commit\",", ""), Verdict::unknown, false},
      {with("1783175888090631", "1783175888"), Verdict::malformed, false},
      {with("1783175888090631", "-1"), Verdict::malformed, false},
      {with("\"time_us\":1783175888090631,", ""), Verdict::malformed, false},
      {with("\"rkey\":\"3mptbyoeyc22k\"", "\"rkey\":7"), Verdict::malformed, true},
      {with("\"rkey\":\"3mptbyoeyc22k\"", "\"rkey\":\"" + std::string(600, 'k') + "\""), Verdict::malformed,
       true},
      {with("\"text\":", "\"texts\":"), Verdict::malformed, true},
      {with("\\ud83d\\ude80", "\\ud83d"), Verdict::malformed, true},
      {with("\"record\":{", "\"record\":7,\"was\":{"), Verdict::malformed, true},
      {std::string(event) + "x", Verdict::malformed, false},
      {"[]", Verdict::unknown, false},
      {"", Verdict::malformed, false},
  };
  for (const auto& is : cases) {
    const auto seen = decode(is.text);
    EXPECT_EQ(seen.verdict, is.verdict) << is.text;
    EXPECT_EQ(seen.cursor > 0, is.cursor) << is.text;
  }
  // A cursor from the future would make the next connection skip everything until then.
  const Timestamp received{std::chrono::microseconds(1783175888090631)};
  EXPECT_EQ(decode(with("1783175888090631", "1783275888090631"), received).cursor, 0);
  EXPECT_EQ(decode(with("up", "a\\u0000b")).post.text.substr(0, 8), "$BTC a b");
}

TEST(Jetstream, TruncationsAndMutationsNeverBreakIt) {
  std::mt19937 random = seeded_random();
  Jetstream stream;
  std::size_t posts = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text(
        event.substr(0, i < static_cast<int>(event.size()) ? static_cast<std::size_t>(i) : event.size()));
    if (text.size() == event.size())
      for (auto edits = 1 + random() % 4; edits > 0; --edits)
        text[random() % text.size()] = static_cast<char>(random());
    Post post;
    std::int64_t cursor = 0;
    const auto decoded = stream.decode(text, Timestamp{}, post, cursor);
    EXPECT_TRUE(decoded.verdict == Verdict::malformed || i >= static_cast<int>(event.size())) << text;
    if (decoded.verdict == Verdict::tick) {
      ++posts;
      ASSERT_FALSE(post.id.empty() || post.author.empty() || cursor <= 0) << text;
      ASSERT_EQ(post.text.find('\0'), std::string::npos);
    }
    if (i % 1000 != 0) continue;
    ASSERT_EQ(stream.decode(event, Timestamp{}, post, cursor).verdict, Verdict::tick) << text;
  }
  EXPECT_GT(posts, 0u);
}

TEST(Jetstream, Addresses) {
  EXPECT_EQ(Jetstream::url("wss://a", 0), "wss://a/subscribe?wantedCollections=app.bsky.feed.post");
  EXPECT_EQ(Jetstream::url("ws://a:1/", 5),
            "ws://a:1/subscribe?wantedCollections=app.bsky.feed.post&cursor=5");
  EXPECT_EQ(Jetstream::url("ws://a/x?b=c", 5), "ws://a/x?b=c&wantedCollections=app.bsky.feed.post&cursor=5");
}

TEST(Jetstream, Recording) {
  const auto path = shared_data() / "recordings/jetstream/expected_v1.jsonl";
  std::ifstream file(path);
  if (!file) GTEST_SKIP() << "no recording " << path;
  Jetstream stream;
  std::string line;
  std::size_t posts = 0, others = 0;
  std::int64_t last = 0;
  bool in_order = true;
  Post first;
  Post newest;
  while (std::getline(file, line)) {
    Post post;
    std::int64_t cursor = 0;
    const auto verdict = stream.decode(line, Timestamp{}, post, cursor).verdict;
    ASSERT_TRUE(verdict == Verdict::tick || verdict == Verdict::ignored) << line;
    ASSERT_GT(cursor, 0);
    ASSERT_LT(last - cursor, jetstream_rewind_us);
    in_order = in_order && cursor >= last;
    last = cursor;
    if (verdict == Verdict::tick && ++posts == 1) first = post;
    if (verdict == Verdict::tick) newest = post;
    others += verdict == Verdict::ignored;
  }
  std::cout << path.filename().string() << ": " << posts << " posts, " << others << " other messages\n";
  EXPECT_EQ(posts, 17u);
  EXPECT_EQ(others, 135u);
  EXPECT_FALSE(in_order);  // which is why a reconnect asks for some seconds again
  EXPECT_EQ(first.id, "did:plc:dclwtltrt2ggsryagfzk7dp4/3mptbyoeyc22k");
  EXPECT_EQ(first.text, "www.youtube.com/watch?v=V5lD...");
  EXPECT_EQ(first.ts.time_since_epoch().count(), 1783175888090631);
  EXPECT_EQ(newest.id, "did:plc:ynfp6wddjqpl44gordpsqkuw/3mptbyo7tas2u");
  EXPECT_EQ(newest.author, "did:plc:ynfp6wddjqpl44gordpsqkuw");
  EXPECT_EQ(newest.text,
            "\"Behind them, Timmi and Wanky'u follow silently but as fast as possible.\"\n\n"
            "www.tumblr.com/tempo-tales/...\n\n#talesatwonderworld\n#balanwonderworldoc");
  EXPECT_EQ(newest.ts.time_since_epoch().count(), 1783175888400999);
}

using Names = std::vector<std::string>;

TEST(Mentions, CashtagsAndNames) {
  const Mentions some({"BTCUSDT", "ETH-USD", "AAPL", "BRK.B"}, {{"SATS", "BTCUSDT"}, {"XYZ", "XYZUSDT"}});
  const struct {
    const char* text;
    Names symbols;
  } cases[] = {
      {"$BTC and $eth, $AAPL.", {"BTCUSDT", "ETH-USD", "AAPL"}},
      {"$BTCUSDT $BTC-USD $BTC", {"BTCUSDT"}},
      {"Bitcoin, #ethereum; btc", {"BTCUSDT", "ETH-USD"}},
      {"ethereum's price", {"ETH-USD"}},
      {"I love bitcoins and netbtc", {}},
      {"stack sats", {"BTCUSDT"}},
      {"apple AAPL", {}},  // a fruit, and no cashtag
      {"$BRK.B $BRK", {"BRK.B"}},
      {"US$AAPL cost 5$BRK.B $5 $", {}},
      {"see https://bitcoin.org/ethereum now", {}},
      {"see https://x.org btc", {"BTCUSDT"}},
      {"$XYZ $DOGE", {}},
      {"", {}},
  };
  for (const auto& is : cases) EXPECT_EQ(some.find(is.text), is.symbols) << is.text;
  const Mentions any({}, {});
  EXPECT_EQ(any.find("$BTC $tsla $TOOLONG $A bitcoin"), (Names{"BTC", "A"}));
  EXPECT_EQ(base_of("BTCUSDT"), "BTC");
  EXPECT_EQ(base_of("BTC-USD"), "BTC");
  EXPECT_EQ(base_of("SOL/EUR"), "SOL");
  EXPECT_EQ(base_of("USDT"), "USDT");
  EXPECT_EQ(base_of("AAPL"), "AAPL");
}

Lexicon built_in() {
  std::string mistake;
  auto lexicon = Lexicon::parse(Lexicon::built_in(), mistake);
  EXPECT_TRUE(lexicon) << mistake;
  return std::move(*lexicon);
}

TEST(Sentiment, Words) {
  EXPECT_EQ(
      words_of("Cut $AAPL to 3.5, won\xe2\x80\x99t @you all-time https://a.b/c +5% -3.2% \xf0\x9f\x9a\x80!"),
      (Names{"cut", "to", "3", "won't", "all-time", "+%", "-%", "u+1f680", "."}));
  EXPECT_EQ(words_of("$BTC. #moon caf\xc3\xa9 \xff\xf0\x9f"), (Names{".", "moon", "caf"}));
  EXPECT_EQ(words_of("\xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd"), (Names{"u+1f44d"}));  // without its colour
}

TEST(Sentiment, WhatTurnsAndStrengthens) {
  const Lexicon lexicon = built_in();
  const auto score = [&](const char* text) { return lexicon.score(text); };
  EXPECT_EQ(score("what do you think about $BTC ?"), 0);
  EXPECT_EQ(score("$LOVE $CRASH @bullish https://crash.com/dump"), 0);
  EXPECT_GT(score("bullish"), least_telling_score);
  EXPECT_LT(score("bearish"), -least_telling_score);
  EXPECT_LT(score("not bullish at all"), -least_telling_score);
  EXPECT_GT(score("not a scam"), least_telling_score);
  EXPECT_LT(score("isn't good"), 0);
  EXPECT_GT(score("no. good"), 0);                           // the sentence ended
  EXPECT_GT(score("not one of them is really so good"), 0);  // too far away
  EXPECT_GT(score("very good"), score("good"));
  EXPECT_GT(score("really very good"), score("very good"));
  EXPECT_LT(score("slightly good"), score("good"));
  EXPECT_GT(score("not very good"), score("not good") - 1);
  EXPECT_LT(score("not very good"), 0);
  EXPECT_EQ(score("good good good"), score("good"));
  EXPECT_GT(score("\xf0\x9f\x9a\x80"), least_telling_score);
  EXPECT_LT(score("\xf0\x9f\x93\x89"), -least_telling_score);
  EXPECT_GT(score("price target raised to $50 from $45"), least_telling_score);
  EXPECT_LT(score("downgraded $AAPL to sell"), -least_telling_score);
  EXPECT_GT(score("BUY THE DIP"), 0);  // the phrase, not the dip
  EXPECT_LT(score("$X -5%"), 0);
  std::string all;
  for (int i = 0; i < 5000; ++i) all += "moon\nbullish crash ";
  EXPECT_LE(std::abs(score(all.c_str())), 1);
}

TEST(Sentiment, LexiconsOfOnesOwn) {
  std::string mistake;
  const auto mine =
      Lexicon::parse("# mine\n\n2: wen lambo, Gm\n-1: ngmi, U+1F480\nx3: ser\nnegates: nah\n", mistake);
  ASSERT_TRUE(mine) << mistake;
  EXPECT_GT(mine->score("GM"), 0);
  EXPECT_EQ(mine->score("bullish"), 0);
  EXPECT_LT(mine->score("nah gm"), 0);
  EXPECT_LT(mine->score("\xf0\x9f\x92\x80"), 0);
  EXPECT_GT(mine->score("ser gm"), mine->score("gm"));
  const struct {
    const char* text;
    const char* mistake;
  } cases[] = {
      {"2 moon", "line 1: must be VALUE: TERM, TERM, ..."},
      {"\nmuch: moon", "line 2: \"much\" must be a number, x and a number, or negates"},
      {"x-1: moon", "line 1: \"x-1\" must be a number, x and a number, or negates"},
      {"1: a, ,b", "line 1: \"\" must be one to six words, or an emoji as U+1F680"},
      {"1: a\n2: A", "line 2: \"a\" is there already"},
  };
  for (const auto& is : cases) {
    EXPECT_FALSE(Lexicon::parse(is.text, mistake));
    EXPECT_EQ(mistake, is.mistake);
  }
}

TEST(Sentiment, AnswersOfAServer) {
  const char* wrong = "";
  EXPECT_EQ(scorer_request({"a\"b", "c"}), R"({"texts":["a\"b","c"]})");
  EXPECT_EQ(scorer_answer(R"({"scores":[1,-0.5,0]})", 3, wrong), (std::vector<double>{1, -0.5, 0}));
  for (const char* body : {"", "[]", R"({"scores":[]})", R"({"scores":[1]})", R"({"scores":[1,2]})",
                           R"({"scores":[1,null]})", R"({"scores":[1,"1"]})", R"({"scores":[1,0,0]})"})
    EXPECT_FALSE(scorer_answer(body, 2, wrong)) << body;
}

// Labels: 0 neutral, 1 the price rises, 2 it falls. The lexicon was written from the odd lines.
TEST(Sentiment, TweetsThatItWasNotWrittenFrom) {
  const auto path = shared_data() / "social/tweets_all_gs24.jsonl";
  std::ifstream file(path);
  if (!file) GTEST_SKIP() << "no tweets " << path;
  const Lexicon lexicon = built_in();
  for (const bool even : {false, true}) {
    file.clear();
    file.seekg(0);
    std::array<std::array<double, 3>, 3> counts{};
    std::string line;
    for (std::size_t number = 1; std::getline(file, line); ++number) {
      if ((number % 2 == 0) != even) continue;
      simdjson::dom::parser parser;
      const auto root = parser.parse(line);
      const auto label = static_cast<std::size_t>(std::int64_t(root["sentiment"]));
      const double score = lexicon.score(std::string_view(root["note"]));
      ++counts.at(label)[score >= least_telling_score ? 1 : score <= -least_telling_score ? 2 : 0];
    }
    double all = 0, right = 0, f1 = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      double is = 0, said = 0;
      for (std::size_t j = 0; j < 3; ++j) is += counts[k][j], said += counts[j][k];
      all += is;
      right += counts[k][k];
      f1 += 2 * counts[k][k] / std::max(1.0, is + said) / 3;
    }
    std::cout << (even ? "even" : "odd") << " lines: " << all << " tweets, accuracy " << right / all
              << ", macro F1 " << f1 << "\n";
    ASSERT_EQ(all, 500);
    EXPECT_GE(right / all, 0.45);
  }
}

}  // namespace
