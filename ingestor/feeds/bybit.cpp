// Bybit v5: publicTrade, several trades a message. Spot ids are numbers with gaps that mean nothing; those of
// derivatives are UUIDs, of which the tick keeps 63 bits: enough to tell the trades of one instant apart. The
// REST interface tells the newest trades only: 60 of spot, 1000 of derivatives.
#include "event.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t arguments_per_request = 10;  // spot takes no more

std::optional<std::int64_t> fold_uuid(std::string_view text) {
  std::uint64_t halves[2] = {0, 0};
  std::size_t digits = 0;
  for (const char c : text) {
    if (c == '-') continue;
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0 || digits == 32) return std::nullopt;
    halves[digits / 16] = halves[digits / 16] << 4 | static_cast<std::uint64_t>(digit);
    ++digits;
  }
  if (digits != 32) return std::nullopt;
  std::uint64_t mixed = halves[0] * 0x9e3779b97f4a7c15u ^ halves[1];
  mixed = (mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9u;
  return static_cast<std::int64_t>(mixed >> 1);
}

void note_id(json::value& value, Event& event) {
  const auto text = digits_of(value);
  if (text) event.id = parse_integer(*text);
  if (text && !event.id) event.id = fold_uuid(*text);
}

void note(std::string_view key, json::value& value, Event& event) {
  if (key == "i") {
    note_id(value, event);
  } else if (key == "T") {
    event.time = epoch_of(value);
  } else if (key == "p") {
    event.price = digits_of(value);
  } else if (key == "v") {
    event.qty = digits_of(value);
  } else if (key == "S") {
    event.maker = maker_when_taker(value);
  } else if (key == "s") {
    read(event.symbol, value.get_string());
  }
}

void note_history(std::string_view key, json::value& value, Event& event) {
  if (key == "execId") {
    note_id(value, event);
  } else if (key == "time") {
    event.time = epoch_of(value);
  } else if (key == "price") {
    event.price = digits_of(value);
  } else if (key == "size") {
    event.qty = digits_of(value);
  } else if (key == "side") {
    event.maker = maker_when_taker(value);
  } else if (key == "symbol") {
    read(event.symbol, value.get_string());
  }
}

class BybitFeed final : public Feed {
 public:
  explicit BybitFeed(bool linear) : linear_(linear) {}

  Decoded decode(std::string_view message, Timestamp received, std::vector<Tick>& out) override {
    json::object root;
    if (const auto other = message_.open(message, root)) return *other;
    Harvest harvest(out, received);
    std::optional<std::string_view> topic;
    std::optional<bool> success;
    bool operation = false;
    const bool whole = each_member(root, [&](std::string_view key, json::value& value) {
      if (key == "topic") {
        read(topic, value.get_string());
      } else if (key == "success") {
        read(success, value.get_bool());
      } else if (key == "op") {
        operation = true;
      } else if (key == "data" && (!topic || is_trades(*topic))) {
        return harvest.add_each(value, note);
      }
      return true;
    });
    if (!whole || !message_.complete()) return harvest.give_up(Verdict::malformed, "broken JSON");
    if (success == false) return harvest.give_up(Verdict::refused, "the exchange refused a request");
    if (topic && !is_trades(*topic)) return harvest.give_up(Verdict::ignored);
    if (topic) return harvest.done();
    return harvest.give_up(success || operation ? Verdict::reply : Verdict::unknown);
  }

  std::optional<Heartbeat> heartbeat(const std::vector<std::string>&) const override {
    return Heartbeat{R"({"op":"ping"})", std::chrono::seconds(20)};
  }

  std::optional<std::string> history(std::string_view symbol, const Wanted&,
                                     const std::vector<Tick>* page) const override {
    if (page != nullptr) return std::nullopt;
    return "/v5/market/recent-trade?category=" + std::string(linear_ ? "linear" : "spot") +
           "&symbol=" + std::string(symbol) + "&limit=" + std::to_string(history_page_size());
  }
  std::size_t history_page_size() const override { return linear_ ? 1000 : 60; }
  bool history_by_time() const override { return true; }
  bool history_of_newest() const override { return true; }
  std::chrono::milliseconds history_interval() const override { return std::chrono::milliseconds(100); }

  // {"retCode":0,"result":{"category":"spot","list":[{"execId":"2100000000007764263",..},..]}}
  Decoded decode_history(std::string_view body, std::string_view symbol, Timestamp received,
                         std::vector<Tick>& out) override {
    json::object root;
    if (const auto other = message_.open(body, root)) return *other;
    Harvest harvest(out, received);
    std::optional<std::int64_t> code;
    bool foreign = false;
    const auto each_trade = [&](std::string_view name, json::value& member, Event& event) {
      note_history(name, member, event);
      foreign = foreign || (name == "symbol" && event.symbol != symbol);
    };
    const bool whole = each_member(root, [&](std::string_view key, json::value& value) {
      if (key == "retCode") code = whole_of(value);
      json::object result;
      if (key != "result" || value.get_object().get(result)) return true;
      return each_member(result, [&](std::string_view name, json::value& member) {
        return name != "list" || harvest.add_each(member, each_trade);
      });
    });
    if (!whole || !message_.complete()) return harvest.give_up(Verdict::malformed, "broken JSON");
    if (code != 0) return harvest.give_up(Verdict::refused, "the exchange refused a request");
    if (foreign) return harvest.give_up(Verdict::malformed, "trades of another instrument");
    return harvest.done_history();
  }

  std::vector<std::string> subscribe(const std::vector<std::string>& symbols, Stream,
                                     bool add) const override {
    std::vector<std::string> topics;
    for (const auto& symbol : symbols) topics.push_back("publicTrade." + symbol);
    return subscription_requests(topics, arguments_per_request,
                                 add ? R"({"op":"subscribe","args":[)" : R"({"op":"unsubscribe","args":[)",
                                 "]}");
  }

 private:
  static bool is_trades(std::string_view topic) {
    return topic.starts_with("publicTrade.") || topic.starts_with("trade.");
  }

  bool linear_;
  Message message_;
};

}  // namespace

std::unique_ptr<Feed> make_bybit_feed(Stream) {
  return std::make_unique<BybitFeed>(false);
}

std::unique_ptr<Feed> make_bybit_linear_feed(Stream) {
  return std::make_unique<BybitFeed>(true);
}

}  // namespace tick::ingest
