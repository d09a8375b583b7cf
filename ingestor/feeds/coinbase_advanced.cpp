// Coinbase Advanced Trade: the market_trades channel, trades of 250 ms at a time, with the ids that Coinbase
// Exchange gives them; so its REST interface repairs both. Without the heartbeats channel a quiet connection
// is closed after a minute. Messages of a -USDC product name the -USD one (see wire_symbol).
#include "event.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t products_per_request = 100;

void note(std::string_view key, json::value& value, Event& event) {
  if (key == "trade_id") {
    event.id = whole_of(value);
  } else if (key == "product_id") {
    read(event.symbol, value.get_string());
  } else if (key == "price") {
    event.price = digits_of(value);
  } else if (key == "size") {
    event.qty = digits_of(value);
  } else if (key == "side") {
    event.maker = maker_when_maker(value);
  } else if (key == "time") {
    std::optional<std::string_view> text;
    read(text, value.get_string());
    event.time = text ? parse_time(*text) : std::nullopt;
  }
}

class CoinbaseAdvancedFeed final : public Feed {
 public:
  Decoded decode(std::string_view message, Timestamp received, std::vector<Tick>& out) override {
    json::object root;
    if (const auto other = message_.open(message, root)) return *other;
    Harvest harvest(out, received);
    std::optional<std::string_view> channel;
    std::optional<std::string_view> type;
    const auto each_event = [&](std::string_view name, json::value& member) {
      return name != "trades" || harvest.add_each(member, note);
    };
    const bool whole = each_member(root, [&](std::string_view key, json::value& value) {
      json::array events;
      if (key == "channel") {
        read(channel, value.get_string());
      } else if (key == "type") {
        read(type, value.get_string());
      } else if (key == "events" && !value.get_array().get(events)) {
        for (auto element : events) {
          json::object event;
          if (element.get_object().get(event) || !each_member(event, each_event)) return false;
        }
      }
      return true;
    });
    if (!whole || !message_.complete()) return harvest.give_up(Verdict::malformed, "broken JSON");
    if (channel == "market_trades") return harvest.done();
    if (channel == "subscriptions") return harvest.give_up(Verdict::reply);
    if (type == "error") return harvest.give_up(Verdict::refused, "the exchange refused a request");
    return harvest.give_up(channel ? Verdict::ignored : Verdict::unknown);
  }

  std::optional<std::string> history(std::string_view symbol, const Wanted& want,
                                     const std::vector<Tick>* page) const override {
    return exchange_->history(symbol, want, page);
  }
  Decoded decode_history(std::string_view body, std::string_view symbol, Timestamp received,
                         std::vector<Tick>& out) override {
    return exchange_->decode_history(body, symbol, received, out);
  }
  std::chrono::milliseconds history_interval() const override { return exchange_->history_interval(); }

  std::vector<std::string> subscribe(const std::vector<std::string>& symbols, Stream,
                                     bool add) const override {
    const char* begin = add ? R"({"type":"subscribe",)" : R"({"type":"unsubscribe",)";
    auto requests =
        subscription_requests(symbols, products_per_request,
                              std::string(begin) + R"("channel":"market_trades","product_ids":[)", "]}");
    if (add && !requests.empty()) requests.push_back(std::string(begin) + R"("channel":"heartbeats"})");
    return requests;
  }

 private:
  Message message_;
  std::unique_ptr<Feed> exchange_ = make_coinbase_feed();
};

}  // namespace

std::unique_ptr<Feed> make_coinbase_advanced_feed(Stream) {
  return std::make_unique<CoinbaseAdvancedFeed>();
}

}  // namespace tick::ingest
