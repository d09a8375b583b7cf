// Seeded small talk; see chatter.hpp.
#include "chatter.hpp"

#include <cstdio>
#include <sstream>

#include <pugixml.hpp>
#include <simdjson.h>

#include "mentions.hpp"
#include "number.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t most_kept = 50'000;
constexpr std::uint64_t out_of_order_us = 5000;
constexpr std::size_t rss_items = 200;

// As they stand in JSON. @ is the instrument.
constexpr std::string_view talk[] = {
    R"(@ to the moon \ud83d\ude80\ud83d\ude80)",
    R"(Very bullish on @ here, strong breakout)",
    R"(@: upgraded to buy, price target raised)",
    R"(@ isn\u2019t overvalued. Not selling.)",
    R"(@ beats estimates, record quarter \ud83d\udcc8)",
    R"(@ is going to crash, weak outlook \ud83d\udcc9)",
    R"(Sold all my @. Downgraded, target cut, \"a disaster\")",
    R"(not bullish on @ at all, looks like a scam)",
    R"(@ misses on revenue\nshares plunge)",
    R"(what do you think about @ ?)",
    R"(@ chart of the day https://example.com/bitcoin?x=1)",
    R"(looking at (@) today, caf\u00e9 open)",
};

}  // namespace

std::uint64_t Chatter::below(std::uint64_t n) {
  std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (z ^ (z >> 31)) % n;
}

void Chatter::post(Event& event, std::string_view symbol) {
  std::string about = "$" + std::string(base_of(symbol));
  event.symbols.emplace_back(symbol);
  if (!other_.empty() && other_ != symbol && below(8) == 0) {
    about += " and $" + std::string(base_of(other_));
    event.symbols.push_back(other_);
  }
  other_ = symbol;
  const std::string_view pattern = talk[below(std::size(talk))];
  const auto at = pattern.find('@');
  event.json +=
      R"("$type":"app.bsky.feed.post","createdAt":"2026-01-01T00:00:00.000Z","langs":["en"],"text":")" +
      std::string(pattern.substr(0, at)) + about + std::string(pattern.substr(at + 1)) + '"';
}

void Chatter::trade(std::string_view symbol, std::int64_t time_us, const Hear& hear) {
  if (every_ == 0 || ++trades_ % every_ != 0) return;
  Event event;
  event.time_us = time_us - static_cast<std::int64_t>(below(out_of_order_us));
  char author[40];
  char key[24];
  std::snprintf(author, sizeof author, "did:plc:fake%08llx", static_cast<unsigned long long>(below(1000)));
  std::snprintf(key, sizeof key, "3%012llx", static_cast<unsigned long long>(++events_));
  const auto kind = below(10);
  const std::string opening =
      std::string(R"({"did":")") + author + R"(","time_us":)" + std::to_string(event.time_us);
  const std::string commit = opening + R"(,"kind":"commit","commit":{"rev":")" + key + R"(","operation":")";
  const std::string path = std::string(R"(","collection":"app.bsky.feed.post","rkey":")") + key + '"';
  if (kind == 0) {
    event.json = opening + R"(,"kind":"identity","identity":{"did":")" + author + R"(","seq":1}})";
  } else if (kind == 1) {
    event.json = commit + "delete" + path + "}}";
  } else {
    event.json = commit + "create" + path + R"(,"record":{)";
    if (kind == 2)
      event.json += R"("$type":"app.bsky.feed.post","text":"good morning, that is 5$ for you")";
    else
      post(event, symbol);
    event.json += R"(},"cid":"bafyfake"}})";
    if (!event.symbols.empty()) event.id = std::string(author) + "/" + key;
  }
  kept_.push_back(std::move(event));
  if (kept_.size() > most_kept) kept_.pop_front();
  hear(kept_.back());
}

std::string Chatter::rss() const {
  pugi::xml_document xml;
  auto channel = xml.append_child("rss").append_child("channel");
  xml.child("rss").append_attribute("version") = "2.0";
  channel.append_child("title").text() = "Fake news";
  simdjson::dom::parser parser;
  std::size_t items = 0;
  for (auto event = kept_.rbegin(); event != kept_.rend() && items < rss_items; ++event) {
    std::string_view text;
    if (event->id.empty() || parser.parse(event->json).at_pointer("/commit/record/text").get(text)) continue;
    ++items;
    auto item = channel.append_child("item");
    // Half of them say it in the title, half in a summary with markup.
    const bool titled = items % 2 == 0;
    item.append_child("title").text() = titled ? std::string(text).c_str() : "Market talk";
    if (!titled) item.append_child("description").text() = ("<p>" + std::string(text) + "</p>").c_str();
    item.append_child("guid").text() = event->id.c_str();
    item.append_child("pubDate").text() =
        format_mail_time(Timestamp(std::chrono::microseconds(event->time_us))).c_str();
  }
  std::ostringstream out;
  xml.save(out, "", pugi::format_raw);
  return out.str();
}

void Chatter::each_from(std::int64_t cursor, const Hear& hear) const {
  for (const auto& event : kept_)
    if (event.time_us >= cursor) hear(event);
}

}  // namespace tick::ingest
