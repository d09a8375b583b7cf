// Bitstamp v2: the channels live_trades_<pair>. Ids are those of all pairs together, so gaps between them
// mean nothing. Prices and amounts are taken from their texts: the numbers beside them have been through a
// double. `bts:request_reconnect` must be obeyed.
#include <algorithm>
#include <cctype>

#include "event.hpp"

namespace tick::ingest {

namespace {

constexpr std::string_view channel_prefix = "live_trades_";

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

  std::vector<std::string> subscribe(const std::vector<std::string>& symbols, Stream,
                                     bool add) const override {
    std::vector<std::string> requests;
    for (const auto& symbol : symbols) {
      std::string pair(symbol);
      std::transform(pair.begin(), pair.end(), pair.begin(), [](unsigned char c) { return std::tolower(c); });
      requests.push_back(std::string(add ? R"({"event":"bts:subscribe")" : R"({"event":"bts:unsubscribe")") +
                         R"(,"data":{"channel":")" + std::string(channel_prefix) + pair + "\"}}");
    }
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
    } else if (key == "type") {  // of the order that took: 0 buys, 1 sells
      const auto type = whole_of(value);
      if (type == 0) event.maker = Maker::seller;
      if (type == 1) event.maker = Maker::buyer;
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
