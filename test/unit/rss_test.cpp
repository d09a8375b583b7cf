// News by RSS and Atom: documents as their specifications and real servers write them, broken ones, and
// mutations; the times of mail headers.
#include <gtest/gtest.h>

#include "ingestor/feeds/rss.hpp"
#include "ingestor/number.hpp"
#include "mutations.hpp"

namespace {

using namespace tick::ingest;

constexpr std::int64_t second = 1'000'000;
const Timestamp now{std::chrono::seconds(1'800'000'000)};

constexpr std::string_view rss2 = R"(<?xml version="1.0" encoding="UTF-8"?>
<rss version="2.0" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:content="http://purl.org/rss/1.0/modules/content/">
<channel><title>News &amp; more</title><link>https://n.example</link>
<item><title><![CDATA[$BTC <b>up</b> 5%]]></title><link>https://n.example/2</link>
 <guid isPermaLink="false"> n-2 </guid><pubDate>Tue, 10 Jun 2025 12:00:01 +0200</pubDate>
 <dc:creator>Ann</dc:creator>
 <description>&lt;p&gt;Bitcoin &amp;amp; friends&lt;/p&gt;&lt;img src="x"/&gt; rose,  5 &amp;lt; 6</description></item>
<item><title>$ETH down</title><link>https://n.example/1</link><pubDate>Tue, 10 Jun 2025 09:00:00 GMT</pubDate></item>
<item><description>no id, no link</description></item>
<item><guid>n-0</guid></item>
</channel></rss>)";
constexpr std::string_view rss1 =
    R"(<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><channel rdf:about="https://o.example"><title>Old</title></channel>
<item rdf:about="https://o.example/a"><title>A</title><dc:date>2025-06-10T12:00:00+02:00</dc:date></item></rdf:RDF>)";
constexpr std::string_view atom = R"(<feed xmlns="http://www.w3.org/2005/Atom"><title>Atoms</title>
<entry><id>urn:1</id><title>First</title><updated>2025-06-10T11:00:00.5Z</updated><author><name>Bob</name></author>
<summary type="html">&lt;i&gt;sum&lt;/i&gt;</summary></entry>
<entry><link href="https://a.example/2"/><title>Second</title><published>2999-01-01T00:00:00Z</published></entry></feed>)";

Decoded read(std::string_view text, std::vector<Post>& out) {
  out.clear();
  return read_articles(text, now, out);
}

TEST(Rss, FieldByField) {
  std::vector<Post> posts;
  const Decoded decoded = read(rss2, posts);
  EXPECT_EQ(decoded.verdict, Verdict::tick);
  EXPECT_EQ(decoded.bad, 2u);
  ASSERT_EQ(posts.size(), 2u);
  EXPECT_EQ(posts[0].id, "https://n.example/1");
  EXPECT_EQ(posts[0].author, "News & more");
  EXPECT_EQ(posts[0].text, "$ETH down");
  EXPECT_EQ(posts[0].ts.time_since_epoch().count(), 1749546000 * second);
  EXPECT_EQ(posts[1].id, "n-2");
  EXPECT_EQ(posts[1].author, "Ann");
  EXPECT_EQ(posts[1].text, "$BTC up 5%\nBitcoin & friends rose, 5 < 6");
  EXPECT_EQ(posts[1].ts.time_since_epoch().count(), 1749549601 * second);
  EXPECT_EQ(posts[1].cursor, 1749549601 * second);

  EXPECT_EQ(read(rss1, posts).verdict, Verdict::tick);
  ASSERT_EQ(posts.size(), 1u);
  EXPECT_EQ(posts[0].id, "https://o.example/a");
  EXPECT_EQ(posts[0].author, "Old");
  EXPECT_EQ(posts[0].ts.time_since_epoch().count(), 1749549600 * second);

  EXPECT_EQ(read(atom, posts).verdict, Verdict::tick);
  ASSERT_EQ(posts.size(), 2u);
  EXPECT_EQ(posts[0].id, "urn:1");
  EXPECT_EQ(posts[0].author, "Bob");
  EXPECT_EQ(posts[0].text, "First\nsum");
  EXPECT_EQ(posts[0].ts.time_since_epoch().count(), 1749553200 * second + second / 2);
  EXPECT_EQ(posts[1].id, "https://a.example/2");
  EXPECT_EQ(posts[1].ts, now);  // not from the future
}

TEST(Rss, WhatIsNone) {
  const struct {
    std::string text;
    Verdict verdict;
  } cases[] = {
      {"", Verdict::malformed},
      {"<html><body/></html>", Verdict::malformed},
      {std::string(rss2.substr(0, rss2.size() / 2)), Verdict::malformed},
      {"{\"items\":[]}", Verdict::malformed},
      {"<rss><channel><title>quiet</title></channel></rss>", Verdict::ignored},
      {"<feed/>", Verdict::ignored},
      {"<rss><channel><item><guid>1</guid><title>\xff</title></item></channel></rss>", Verdict::malformed},
      {"<rss><channel><item><guid>" + std::string(2000, 'x') +
           "</guid><title>t</title></item></channel></rss>",
       Verdict::malformed},
  };
  std::vector<Post> posts;
  for (const auto& is : cases) EXPECT_EQ(read(is.text, posts).verdict, is.verdict) << is.text.substr(0, 200);
}

TEST(Rss, TextsOfAnyLengthAndEntities) {
  std::string longest;
  for (int i = 0; i < 5000; ++i) longest += "\xe6\x97\xa5";
  std::vector<Post> posts;
  ASSERT_EQ(
      read("<rss><channel><item><guid>1</guid><title>" + longest + "</title></item></channel></rss>", posts)
          .verdict,
      Verdict::tick);
  EXPECT_GT(posts[0].text.size(), 9'900u);
  EXPECT_LE(posts[0].text.size(), 10'000u);
  // Entities of a DTD are not expanded, so that none can grow without end.
  read(
      "<!DOCTYPE r [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><rss><channel><item><guid>1</guid><title>x "
      "&b;</title>"
      "</item></channel></rss>",
      posts);
  ASSERT_EQ(posts.size(), 1u);
  EXPECT_EQ(posts[0].text, "x &b;");
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "<a>";
  EXPECT_EQ(read(deep, posts).verdict, Verdict::malformed);
}

TEST(Rss, MutationsNeverBreakIt) {
  std::mt19937 random = seeded_random();
  std::vector<Post> posts;
  std::size_t articles = 0;
  for (int i = 0; i < 15'000; ++i) {
    std::string text(i % 3 == 0 ? rss2 : i % 3 == 1 ? rss1 : atom);
    if (i % 4 == 0) text.resize(random() % text.size());
    for (auto edits = random() % 6; edits > 0 && !text.empty(); --edits)
      text[random() % text.size()] =
          random() % 2 == 0 ? "<>&;\"/![]"[random() % 9] : static_cast<char>(random());
    const Decoded decoded = read(text, posts);
    ASSERT_EQ(posts.empty(), decoded.verdict != Verdict::tick) << text;
    for (const auto& post : posts) {
      ++articles;
      ASSERT_FALSE(post.id.empty() || post.text.empty()) << text;
      ASSERT_LE(post.ts, now);
      ASSERT_EQ((post.id + post.author + post.text).find('\0'), std::string::npos);
    }
  }
  EXPECT_GT(articles, 1000u);
}

TEST(Number, TimesOfMails) {
  const struct {
    const char* text;
    std::int64_t seconds;  // 0: none
  } cases[] = {
      {"Fri, 11 Oct 2019 00:00:11 GMT", 1570752011},
      {"11 Oct 2019 00:00:11 GMT", 1570752011},
      {"Fri, 11 Oct 2019 00:00 +0000", 1570752000},
      {"Thu, 10 Oct 2019 19:00:11 EST", 1570752011},
      {"Fri, 11 Oct 2019 02:00:11 +02:00", 1570752011},
      {"Thu,  1 Jan 1970 00:00:00 GMT", 0},
      {"Fri, 32 Oct 2019 00:00:11 GMT", 0},
      {"Fri, 31 Nov 2019 00:00:11 GMT", 0},
      {"Fri, 11 Okt 2019 00:00:11 GMT", 0},
      {"Fri, 11 ctN 2019 00:00:11 GMT", 0},
      {"Fri, 11 Oct 2019 24:00:11 GMT", 0},
      {"Fri, 11 Oct 2019 00:00:11 XYZ", 0},
      {"Fri, 11 Oct 2019", 0},
      {"Fri,", 0},
      {"", 0},
      {"120", 0},
  };
  for (const auto& is : cases) {
    const auto time = parse_mail_time(is.text);
    EXPECT_EQ(time ? time->time_since_epoch().count() : 0, is.seconds * second) << is.text;
    if (time) {
      EXPECT_EQ(parse_mail_time(format_mail_time(*time)), time);
    }
  }
  EXPECT_EQ(format_mail_time(Timestamp(std::chrono::seconds(1570752011))), "Fri, 11 Oct 2019 00:00:11 GMT");
}

}  // namespace
