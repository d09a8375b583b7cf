// Bitstamp v2: the channels live_trades_<pair>. Ids are those of all pairs together, so gaps between them
// mean nothing. Prices and amounts are taken from their texts: the numbers beside them have been through a
// double. `bts:request_reconnect` must be obeyed. The REST interface tells the last minute, hour or day, with
// times in whole seconds.
#include <algorithm>
#include <cctype>

#include "event.hpp"

namespace tick::ingest {

namespace {

constexpr std::string_view channel_prefix = "live_trades_";
constexpr auto span_margin = std::chrono::seconds(5);  // between their clock and ours

std::string lower(std::string_view symbol) {
  std::string pair(symbol);
  std::transform(pair.begin(), pair.end(), pair.begin(), [](unsigned char c) { return std::tolower(c); });
  return pair;
}

std::optional<Maker> maker_of(json::value& value) {  // of the order that took: 0 buys, 1 sells
  const auto type = whole_of(value);
  if (type == 0) return Maker::seller;
  if (type == 1) return Maker::buyer;
  return std::nullopt;
}

void note_history(std::string_view key, json::value& value, Event& event) {
  if (key == "tid") {
    event.id = whole_of(value);
  } else if (key == "price") {
    event.price = digits_of(value);
  } else if (key == "amount") {
    event.qty = digits_of(value);
  } else if (key == "date") {
    event.time = epoch_of(value);
  } else if (key == "type") {
    event.maker = maker_of(value);
  }
}

class BitstampFeed final : public Feed {
 public:
  Decoded decode(std::string_view message, Timestamp received, std::vector<Tick>& out) override {
    json::object root;
    if (const auto other = message_.open(message, root)) return *other;
    Harvest harvest(out, received);
    std::optional<std::string_view> kind;
    Event event;
    bool foreign = false;
    symbol_.clear();
    const bool whole = each_member(root, [&](std::string_view key, json::value& value) {
      json::object data;
      if (key == "event") {
        read(kind, value.get_string());
      } else if (key == "channel") {
        std::optional<std::string_view> channel;
        read(channel, value.get_string());
        foreign = !channel || !channel->starts_with(channel_prefix);
        if (!foreign)
          for (const char c : channel->substr(channel_prefix.size()))
            symbol_ += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      } else if (key == "data" && !value.get_object().get(data)) {
        return each_member(data, [&](std::string_view name, json::value& member) {
          note(name, member, event);
          return true;
        });
      }
      return true;
    });
    if (!whole || !message_.complete()) return harvest.give_up(Verdict::malformed, "broken JSON");
    if (!kind) return harvest.give_up(Verdict::unknown);
    if (kind == "bts:request_reconnect") return harvest.give_up(Verdict::shutdown);
    if (kind == "bts:error") return harvest.give_up(Verdict::refused, "the exchange refused a request");
    if (kind->starts_with("bts:")) return harvest.give_up(Verdict::reply);
    if (kind != "trade" || foreign) return harvest.give_up(Verdict::ignored);
    event.symbol = symbol_;
    harvest.add(event);
    return harvest.done();
  }

  std::optional<std::string> history(std::string_view symbol, const Wanted& want,
                                     const std::vector<Tick>* page) const override {
    if (page != nullptr) return std::nullopt;
    const auto age = want.now - want.after + span_margin;
    const char* span = age < std::chrono::minutes(1) ? "minute"
                       : age < std::chrono::hours(1) ? "hour"
                                                     : "day";
    return "/api/v2/transactions/" + lower(symbol) + "/?time=" + span;
  }
  bool history_by_time() const override { return true; }
  bool history_in_seconds() const override { return true; }

  Decoded decode_history(std::string_view body, std::string_view symbol, Timestamp received,
                         std::vector<Tick>& out) override {
    json::array trades;
    if (const auto other = message_.open(body, trades)) return *other;
    return append_history(trades, symbol, received, out, note_history);
  }

  std::vector<std::string> subscribe(const std::vector<std::string>& symbols, Stream,
                                     bool add) const override {
    std::vector<std::string> requests;
    for (const auto& symbol : symbols)
      requests.push_back(std::string(add ? R"({"event":"bts:subscribe")" : R"({"event":"bts:unsubscribe")") +
                         R"(,"data":{"channel":")" + std::string(channel_prefix) + lower(symbol) + "\"}}");
    return requests;
  }

 private:
  static void note(std::string_view key, json::value& value, Event& event) {
    if (key == "id") {
      event.id = whole_of(value);
    } else if (key == "price_str") {
      event.price = digits_of(value);
    } else if (key == "amount_str") {
      event.qty = digits_of(value);
    } else if (key == "microtimestamp") {
      event.time = epoch_of(value);
    } else if (key == "type") {
      event.maker = maker_of(value);
    }
  }

  Message message_;
  std::string symbol_;
};

}  // namespace

std::unique_ptr<Feed> make_bitstamp_feed(Stream) {
  return std::make_unique<BitstampFeed>();
}

}  // namespace tick::ingest
