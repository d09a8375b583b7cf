// Events of Jetstream; see jetstream.hpp.
#include "jetstream.hpp"

#include <algorithm>

namespace tick::ingest {

namespace {

constexpr std::string_view posts_collection = "app.bsky.feed.post";
constexpr std::string_view subscribe_path = "/subscribe";
constexpr std::size_t longest_name = 512;  // of an author or a key; the network's own limits are below

struct Commit {
  std::optional<std::string_view> operation;
  std::optional<std::string_view> collection;
  std::optional<std::string_view> key;
  std::optional<std::string_view> text;
};

bool read_commit(json::value& value, Commit& commit) {
  json::object object;
  if (value.get_object().get(object)) return true;  // the wrong type: nothing is there
  return each_member(object, [&](std::string_view name, json::value& member) {
    if (name == "operation") {
      read(commit.operation, member.get_string());
    } else if (name == "collection") {
      read(commit.collection, member.get_string());
    } else if (name == "rkey") {
      read(commit.key, member.get_string());
    } else if (name == "record") {
      json::object record;
      if (member.get_object().get(record)) return true;
      return each_member(record, [&](std::string_view inner, json::value& field) {
        if (inner == "text") read(commit.text, field.get_string());
        return true;
      });
    }
    return true;
  });
}

// PostgreSQL's text has no zero bytes.
std::string without_zeros(std::string_view text) {
  std::string out(text);
  std::replace(out.begin(), out.end(), '\0', ' ');
  return out;
}

}  // namespace

Decoded Jetstream::decode(std::string_view message, Timestamp received, Post& post, std::int64_t& cursor) {
  json::object root;
  if (const auto other = message_.open(message, root)) return *other;
  std::optional<std::string_view> author;
  std::optional<std::string_view> kind;
  std::optional<std::int64_t> time;
  Commit commit;
  const bool whole = each_member(root, [&](std::string_view key, json::value& value) {
    if (key == "did") {
      read(author, value.get_string());
    } else if (key == "kind") {
      read(kind, value.get_string());
    } else if (key == "time_us") {
      time = whole_of(value);
    } else if (key == "commit") {
      return read_commit(value, commit);
    }
    return true;
  });
  if (!whole || !message_.complete()) return {Verdict::malformed, "broken JSON"};
  if (!kind) return {Verdict::unknown, ""};
  // The cursor is what the next connection begins with: one from the future would lose everything until then.
  const auto at = time ? epoch_time(*time) : std::nullopt;
  if (!at || at->time_since_epoch().count() != *time ||
      (received != Timestamp{} && *at > received + std::chrono::days(1)))
    return {Verdict::malformed, "impossible time"};
  cursor = *time;
  if (kind != "commit" || commit.collection != posts_collection || commit.operation != "create")
    return {Verdict::ignored, ""};
  if (!author || author->empty() || !commit.key || commit.key->empty() || !commit.text ||
      author->size() + commit.key->size() > longest_name)
    return {Verdict::malformed, "author, key or text is missing"};
  post.ts = *at;
  post.author = without_zeros(*author);
  post.id = post.author + "/" + without_zeros(*commit.key);
  post.text = without_zeros(*commit.text);
  post.symbols.clear();
  post.sentiment.reset();
  post.cursor = cursor;
  return {Verdict::tick, ""};
}

std::string Jetstream::url(std::string_view base, std::int64_t cursor) {
  std::string url(base);
  const auto path = url.find('/', url.find("://") + 3);
  if (path == std::string::npos)
    url += subscribe_path;
  else if (path + 1 == url.size())
    url.replace(path, 1, subscribe_path);
  url += (url.find('?') == std::string::npos ? "?" : "&") + std::string("wantedCollections=") +
         std::string(posts_collection);
  if (cursor > 0) url += "&cursor=" + std::to_string(cursor);
  return url;
}

}  // namespace tick::ingest
