// RSS and Atom by their elements' names; see rss.hpp.
#include "rss.hpp"

#include <algorithm>
#include <cctype>
#include <initializer_list>
#include <string>
#include <utility>

#include <pugixml.hpp>
#include <simdjson.h>

#include "../number.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t longest_id = 1000;  // an index has to hold it
constexpr std::size_t longest_text = 10'000;

// The text of the first of these elements that has one.
std::string_view text_of(const pugi::xml_node& item, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const std::string_view text = item.child(name).text().get();
    if (text.find_first_not_of(" \t\r\n") != std::string_view::npos) return text;
  }
  return {};
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// HTML as people read it, roughly: without tags, entities as what they stand for, blanks one at a time.
void append_plain(std::string& out, std::string_view html) {
  constexpr std::pair<std::string_view, std::string_view> entities[] = {
      {"&amp;", "&"},  {"&lt;", "<"},   {"&gt;", ">"},   {"&quot;", "\""}, {"&#39;", "'"},   {"&#039;", "'"},
      {"&apos;", "'"}, {"&nbsp;", " "}, {"&#160;", " "}, {"&#36;", "$"},   {"&dollar;", "$"}};
  bool blank = out.empty() || out.back() == '\n';
  const auto add = [&](char c) {
    const bool space = static_cast<unsigned char>(c) <= ' ';
    if (!(space && blank)) out += space ? ' ' : c;
    blank = space;
  };
  while (!html.empty() && out.size() < longest_text) {
    const char c = html[0];
    const bool opens =
        c == '<' && html.size() > 1 &&
        (html[1] == '/' || html[1] == '!' || std::isalpha(static_cast<unsigned char>(html[1])));
    const auto end = opens ? html.find('>') : std::string_view::npos;
    if (end != std::string_view::npos) {
      add(' ');
      html.remove_prefix(end + 1);
      continue;
    }
    const auto found = c != '&' ? std::end(entities)
                                : std::find_if(std::begin(entities), std::end(entities),
                                               [&](const auto& one) { return html.starts_with(one.first); });
    if (found != std::end(entities)) {
      for (const char plain : found->second) add(plain);
      html.remove_prefix(found->first.size());
      continue;
    }
    add(c);
    html.remove_prefix(1);
  }
  while (!out.empty() && (out.back() == ' ' || out.back() == '\n')) out.pop_back();
}

std::string plain_text(const pugi::xml_node& item) {
  std::string text;
  append_plain(text, text_of(item, {"title"}));
  if (!text.empty()) text += '\n';
  append_plain(text, text_of(item, {"description", "summary", "content:encoded", "content"}));
  // What was cut at the limit may have lost half of its last character.
  for (int i = 0; i < 3 && text.size() + 3 >= longest_text; ++i)
    if (!simdjson::validate_utf8(text.data(), text.size())) text.pop_back();
  return text;
}

Timestamp time_of(const pugi::xml_node& item, Timestamp received) {
  const auto text = trimmed(text_of(item, {"pubDate", "published", "dc:date", "updated"}));
  auto time = parse_mail_time(text);
  if (!time && text.size() > 4 && text[4] == '-') time = parse_time(text);
  return time && *time <= received ? *time : received;
}

std::string id_of(const pugi::xml_node& item) {
  std::string_view id = trimmed(text_of(item, {"guid", "id"}));
  if (id.empty()) id = trimmed(item.attribute("rdf:about").value());
  if (id.empty()) id = trimmed(text_of(item, {"link"}));
  if (id.empty()) id = trimmed(item.child("link").attribute("href").value());
  return id.size() > longest_id ? std::string() : std::string(id);
}

}  // namespace

Decoded read_articles(std::string_view document, Timestamp received, std::vector<Post>& out) {
  pugi::xml_document xml;
  if (!xml.load_buffer(document.data(), document.size(), pugi::parse_default))
    return {Verdict::malformed, "broken XML"};
  const pugi::xml_node root = xml.document_element();
  const std::string_view kind = root.name();
  const bool atom = kind == "feed";
  const pugi::xml_node channel = atom ? root : root.child("channel");
  if (!atom && !channel) return {Verdict::malformed, "neither RSS nor Atom"};
  const pugi::xml_node parent = kind == "rss" ? channel : root;
  const std::size_t before = out.size();
  Decoded result{Verdict::ignored, ""};
  for (const auto& item : parent.children(atom ? "entry" : "item")) {
    Post post;
    post.id = id_of(item);
    post.text = plain_text(item);
    std::string_view author = text_of(item, {"dc:creator", "author"});
    if (author.empty()) author = text_of(item.child("author"), {"name"});
    if (author.empty()) author = text_of(channel, {"title"});
    post.author = trimmed(author).substr(0, longest_id);
    const std::string all = post.id + post.author + post.text;
    if (post.id.empty() || post.text.empty() || !simdjson::validate_utf8(all.data(), all.size())) {
      ++result.bad;
      result.reason = "an article without an id or a text";
      continue;
    }
    post.ts = time_of(item, received);
    post.received = received;
    post.cursor = post.ts.time_since_epoch().count();
    out.push_back(std::move(post));
  }
  const auto first = out.begin() + static_cast<std::ptrdiff_t>(before);
  std::reverse(first, out.end());  // the newest is first in nearly all
  std::stable_sort(first, out.end(), [](const Post& a, const Post& b) { return a.ts < b.ts; });
  if (out.size() > before) result.verdict = Verdict::tick;
  if (out.size() == before && result.bad > 0) result.verdict = Verdict::malformed;
  return result;
}

}  // namespace tick::ingest
