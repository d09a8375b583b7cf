// Subscriptions, the thread that asks the database, and the page itself; see page.hpp.
#include "page.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include <simdjson.h>

#include "database.hpp"
#include "log.hpp"
#include "position.hpp"
#include "rollups.hpp"

// The files of the page, as they lie in the source tree.
asm(R"(
  .section .rodata
  .global tick_page_html, tick_page_html_end, tick_page_charts, tick_page_charts_end
tick_page_html: .incbin "ingestor/page/index.html"
tick_page_html_end: .byte 0
tick_page_charts: .incbin "ingestor/page/lightweight-charts.js"
tick_page_charts_end: .byte 0
  .text
)");
extern "C" const char tick_page_html[], tick_page_html_end[], tick_page_charts[], tick_page_charts_end[];

namespace tick::ingest {

namespace {

constexpr auto look_every = std::chrono::milliseconds(20);  // while somebody looks
constexpr auto away_pause = std::chrono::seconds(1);
constexpr int bars = 500;  // that a chart begins with
constexpr int most_keys = 2000;

struct Candles {
  std::string name, channel, time;  // the column quoted
  std::vector<std::string> keys;    // columns, quoted
  bool volume = false;

  // The key columns, each with a prefix, in a row; a constant if there are none.
  std::string row(const std::string& prefix) const {
    std::string text;
    for (const auto& key : keys) text += (text.empty() ? "" : ", ") + prefix + key;
    return "(" + (text.empty() ? "1" : text) + ")";
  }
  std::string list(const std::string& prefix) const {
    const std::string text = row(prefix);
    return text.substr(1, text.size() - 2);
  }
};

struct Subscription {
  std::string rollup,
      key;  // the key as JSON, an array of texts; empty: the client only wants to know what there is
  bool served = false;
};

// The value of a parameter of a target's query.
std::string parameter(std::string_view target, std::string_view name) {
  std::string result;
  const auto mark = target.find('?');
  std::string_view rest = mark == target.npos ? "" : target.substr(mark + 1);
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
    const auto equals = pair.find('=');
    if (pair.substr(0, equals) != name || equals == pair.npos) continue;
    for (std::size_t i = equals + 1; i < pair.size(); ++i) {
      const auto hex = [&](char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; };
      if (pair[i] == '%' && i + 2 < pair.size() &&
          std::isxdigit(static_cast<unsigned char>(pair[i + 1])) != 0 &&
          std::isxdigit(static_cast<unsigned char>(pair[i + 2])) != 0) {
        result += static_cast<char>(hex(pair[i + 1]) * 16 + hex(pair[i + 2]));
        i += 2;
      } else {
        result += pair[i] == '+' ? ' ' : pair[i];
      }
    }
  }
  return result;
}

std::vector<std::string> key_of(const std::string& json) {
  std::vector<std::string> result;
  simdjson::dom::parser parser;
  simdjson::dom::array values;
  if (parser.parse(json).get(values)) return result;
  for (const auto value : values) {
    std::string_view text;
    if (!value.get(text)) result.emplace_back(text);
  }
  return result;
}

// The time that turns have changed, as the notifications tell it; empty: all of it.
struct Change {
  std::string from, to;

  void add(std::string_view payload) {
    simdjson::dom::parser parser;
    simdjson::dom::object root;
    std::string_view lo, hi;
    const bool known = !parser.parse(payload.data(), payload.size()).get(root) && !root["from"].get(lo) &&
                       !root["to"].get(hi);
    if (!known || (from.empty() && !first)) lo = hi = "";
    // ISO 8601 of one zone and one width sorts as text does, up to fractions: these only widen the range.
    if (first || lo < from) from = lo;
    if (first || to < hi) to = hi;
    if (from.empty() || to.empty()) from = to = "";
    first = false;
  }
  bool first = true;
};

}  // namespace

struct LivePage::Impl {
  explicit Impl(std::string conninfo_in) : conninfo(std::move(conninfo_in)), thread([this] { serve(); }) {}
  ~Impl() {
    {
      const std::lock_guard lock(guard);
      ending = true;
    }
    changed.notify_all();
    thread.join();
  }

  const std::string conninfo;
  std::mutex guard;  // of what follows
  std::condition_variable changed;
  std::map<std::uint64_t, Subscription> clients;
  std::deque<std::pair<std::uint64_t, std::string>> outgoing;
  bool ending = false;
  std::thread thread;

  void serve() {
    for (;;) {
      {
        std::unique_lock lock(guard);
        changed.wait(lock, [&] { return ending || !clients.empty(); });
        if (ending) return;
        for (auto& [id, subscription] : clients) subscription.served = false;
      }
      try {
        look();
      } catch (const DatabaseError& error) {
        tell_all("{\"trouble\": " + quoted(error.what()) + "}");
        std::unique_lock lock(guard);
        changed.wait_for(lock, away_pause, [&] { return ending; });
      }
    }
  }

  static std::string quoted(std::string_view text) {
    std::string result;
    append_json_string(result, text);
    return result;
  }

  void tell_all(const std::string& text) {
    const std::lock_guard lock(guard);
    for (const auto& [id, subscription] : clients) outgoing.emplace_back(id, text);
  }

  // One connection to the database, for as long as somebody looks.
  void look() {
    Database database(conninfo);
    database.run(
        "SET application_name = 'tick-ingest page'; SET default_transaction_read_only = on; SET "
        "statement_timeout = '10s'; SET TimeZone = 'UTC'");
    std::vector<Candles> rollups;
    for (;;) {
      std::map<std::string, Change> changes;
      for (const auto& notification : database.notifications(look_every))
        changes[notification.channel].add(notification.payload);
      std::vector<std::pair<std::uint64_t, Subscription>> present;
      {
        const std::lock_guard lock(guard);
        if (ending || clients.empty()) return;
        present.assign(clients.begin(), clients.end());
        for (auto& [id, subscription] : clients) subscription.served = true;
      }
      if (std::any_of(present.begin(), present.end(),
                      [](const auto& client) { return !client.second.served; })) {
        rollups = find(database);
        for (const Candles& rollup : rollups) database.run("LISTEN " + database.identifier(rollup.channel));
      }
      for (const auto& [id, subscription] : present) try {
          if (!subscription.served) greet(database, rollups, id, subscription);
          const auto rollup = std::find_if(rollups.begin(), rollups.end(), [&](const Candles& known) {
            return known.name == subscription.rollup;
          });
          if (!subscription.served || subscription.key.empty() || rollup == rollups.end()) continue;
          const auto change = changes.find(rollup->channel);
          if (change != changes.end()) send(id, candles(database, *rollup, subscription.key, change->second));
        } catch (const DatabaseError& error) {
          if (error.connection_lost()) throw;
          send(id, "{\"trouble\": " + quoted(error.what()) + "}");
        }
    }
  }

  static std::vector<Candles> find(Database& database) {
    std::vector<Candles> result;
    for (const auto& row :
         database.query(std::string("SELECT r.rollup::text, tick.channel(r.rollup), ") + window_column +
                        ", EXISTS (SELECT FROM pg_catalog.pg_attribute AS v WHERE v.attrelid = r.rollup AND "
                        "v.attname = 'volume') FROM tick.rollups AS r "
                        "WHERE r.window_size IS NOT NULL AND 4 = (SELECT count(*) FROM "
                        "pg_catalog.pg_attribute AS a WHERE a.attrelid = r.rollup AND "
                        "a.attname IN ('open', 'high', 'low', 'close')) AND has_table_privilege(r.rollup, "
                        "'SELECT') ORDER BY r.window_size, 1")) {
      if (!row[2]) continue;
      Candles found{*row[0], *row[1], *row[2], {}, *row[3] == "t"};
      const std::string parameters[] = {found.name};
      for (const auto& key :
           database.query("SELECT quote_ident(k.name) FROM tick.rollups AS r, unnest(r.keys) WITH ORDINALITY "
                          "AS k(name, n) WHERE r.rollup = $1::regclass ORDER BY k.n",
                          parameters))
        found.keys.push_back(*key[0]);
      result.push_back(std::move(found));
    }
    return result;
  }

  // What there is, and the chart that was asked for.
  void greet(Database& database, const std::vector<Candles>& rollups, std::uint64_t id,
             const Subscription& subscription) {
    std::string text = "{\"rollups\": [";
    for (const Candles& rollup : rollups) {
      // From one key to the next by the primary key, however many windows each has.
      std::string texts;
      for (const auto& key : rollup.keys) texts += (texts.empty() ? "" : ", ") + key + "::text";
      const std::string next = "SELECT " + rollup.list("v.") + " FROM " + rollup.name + " AS v";
      const auto keys = database.query(
          rollup.keys.empty()
              ? "SELECT CASE WHEN EXISTS (SELECT FROM " + rollup.name + ") THEN '[\"[]\"]' ELSE '[]' END"
              : "WITH RECURSIVE k" + rollup.row("") + " AS ((" + next + " ORDER BY " + rollup.list("v.") +
                    " LIMIT 1) UNION ALL SELECT n.* FROM k CROSS JOIN LATERAL (" + next + " WHERE " +
                    rollup.row("v.") + " > " + rollup.row("k.") + " ORDER BY " + rollup.list("v.") +
                    " LIMIT 1) AS n) SELECT coalesce(json_agg(json_build_array(" + texts +
                    ")::text), '[]') FROM (SELECT * FROM k LIMIT " + std::to_string(most_keys) + ") AS k");
      text += (&rollup == &rollups.front() ? "" : ", ");
      text += "{\"name\": " + quoted(rollup.name) + ", \"keys\": " + *keys.at(0).at(0) + "}";
      if (rollup.name == subscription.rollup && !subscription.key.empty())
        send(id, candles(database, rollup, subscription.key, Change{}));
    }
    send(id, text + "]}");
  }

  static std::string candles(Database& database, const Candles& rollup, const std::string& key,
                             const Change& change) {
    std::string condition = "true";
    std::vector<std::string> parameters = key_of(key);
    if (parameters.size() != rollup.keys.size()) return "{\"trouble\": \"no such key\"}";
    for (std::size_t i = 0; i < parameters.size(); ++i)
      condition += " AND " + rollup.keys[i] + " = $" + std::to_string(i + 1);
    if (!change.from.empty()) {
      const std::string n = std::to_string(parameters.size() + 1), m = std::to_string(parameters.size() + 2);
      condition += " AND " + rollup.time + " >= $" + n + "::timestamptz AND " + rollup.time + " < $" + m +
                   "::timestamptz";
      parameters.insert(parameters.end(), {change.from, change.to});
    }
    const auto answer = database.query(
        "SELECT coalesce(json_agg(json_build_object('time', extract(epoch FROM t), 'open', open, 'high', "
        "high, 'low', low, 'close', close, "
        "'volume', volume, 'final', final) ORDER BY t), '[]') FROM (SELECT " +
            rollup.time + " AS t, open, high, low, close, " + (rollup.volume ? "volume" : "NULL AS volume") +
            ", final FROM " + rollup.name + " WHERE " + condition + " ORDER BY " + rollup.time +
            " DESC LIMIT " + std::to_string(bars) + ") AS c",
        parameters);
    return std::string("{\"rollup\": ") + quoted(rollup.name) + ", \"key\": " + quoted(key) +
           ", \"all\": " + (change.from.empty() ? "true" : "false") +
           ", \"candles\": " + *answer.at(0).at(0) + "}";
  }

  void send(std::uint64_t id, std::string text) {
    const std::lock_guard lock(guard);
    if (clients.contains(id)) outgoing.emplace_back(id, std::move(text));
  }
};

LivePage::LivePage(std::string conninfo) : impl_(std::make_unique<Impl>(std::move(conninfo))) {}
LivePage::~LivePage() = default;

const std::string& LivePage::html() {
  static const std::string page = [] {
    std::string text(tick_page_html, tick_page_html_end);
    constexpr std::string_view mark = "<!-- charts -->";
    const auto at = text.find(mark);
    return text.replace(at, mark.size(),
                        "<script>" + std::string(tick_page_charts, tick_page_charts_end) + "</script>");
  }();
  return page;
}

bool LivePage::serves(std::string_view target) {
  return target == "/live" || target.starts_with("/live?");
}

void LivePage::open(std::uint64_t client, std::string_view target) {
  {
    const std::lock_guard lock(impl_->guard);
    impl_->clients[client] = {parameter(target, "rollup"), parameter(target, "key"), false};
  }
  impl_->changed.notify_all();
}

void LivePage::closed(std::uint64_t client) {
  const std::lock_guard lock(impl_->guard);
  impl_->clients.erase(client);
}

std::chrono::microseconds LivePage::turn(const std::function<void(std::uint64_t, std::string_view)>& send) {
  std::deque<std::pair<std::uint64_t, std::string>> ready;
  bool watched = false;
  {
    const std::lock_guard lock(impl_->guard);
    ready.swap(impl_->outgoing);
    watched = !impl_->clients.empty();
  }
  for (const auto& [client, text] : ready) send(client, text);
  return watched ? look_every : std::chrono::microseconds(std::chrono::seconds(1));
}

}  // namespace tick::ingest
