// Coinbase Exchange: the `matches` channel. `last_match`, sent once per product after subscribing, is the
// newest trade that already happened: a tick like any other, and the probe that shows what was missed.
#include "event.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t products_per_request = 100;

class CoinbaseFeed final : public Feed {
 public:
  Decoded decode(std::string_view message, Timestamp received, std::vector<Tick>& out) override {
    json::object root;
    if (const auto other = message_.open(message, root)) return *other;
    std::optional<std::string_view> type;
    Event event;
    for (auto field : root) {
      std::string_view key;
      json::value value;
      if (field.unescaped_key().get(key) || field.value().get(value))
        return {Verdict::malformed, "broken JSON"};
      if (key == "type") {
        read(type, value.get_string());
        if (!type) return {Verdict::malformed, "no usable type"};
        if (*type == "error") return {Verdict::refused, "the exchange refused a request"};
        if (*type == "subscriptions") return {Verdict::reply, ""};
        if (*type != "match" && *type != "last_match") return {Verdict::ignored, ""};
      } else if (key == "channel") {
        return {Verdict::unknown, ""};  // another protocol's
      } else {
        note(key, value, event);
      }
    }
    if (!message_.complete()) return {Verdict::malformed, "text after the JSON object"};
    if (!type) return {Verdict::unknown, ""};
    if (const char* wrong = append_tick(event, received, out)) return {Verdict::malformed, wrong};
    return {Verdict::tick, ""};
  }

  // Newest first: `after` is the id below which the next page begins.
  std::optional<std::string> history(std::string_view symbol, const Wanted& want,
                                     const std::vector<Tick>* page) const override {
    std::string target = "/products/" + std::string(symbol) + "/trades?limit=" + std::to_string(history_page);
    if (page == nullptr)
      return want.last == no_last ? target : target + "&after=" + std::to_string(want.last + 1);
    if (page->empty() || page->front().id <= want.first) return std::nullopt;
    return target + "&after=" + std::to_string(page->front().id);
  }

  Decoded decode_history(std::string_view body, std::string_view symbol, Timestamp received,
                         std::vector<Tick>& out) override {
    json::array trades;
    if (const auto other = message_.open(body, trades)) return *other;
    return append_history(trades, symbol, received, out, note);
  }

  std::chrono::milliseconds history_interval() const override { return std::chrono::milliseconds(150); }

  std::vector<std::string> subscribe(const std::vector<std::string>& symbols, Stream,
                                     bool add) const override {
    return subscription_requests(
        symbols, products_per_request,
        add ? R"({"type":"subscribe","product_ids":[)" : R"({"type":"unsubscribe","product_ids":[)",
        R"(],"channels":["matches","heartbeat"]})");
  }

 private:
  static void note(std::string_view key, json::value& value, Event& event) {
    std::optional<std::string_view> text;
    if (key == "product_id") {
      read(event.symbol, value.get_string());
    } else if (key == "price") {
      event.price = digits_of(value);
    } else if (key == "size") {
      event.qty = digits_of(value);
    } else if (key == "trade_id") {
      read(event.id, value.get_int64());
    } else if (key == "time") {
      read(text, value.get_string());
      event.time = text ? parse_time(*text) : std::nullopt;
    } else if (key == "side") {  // the maker's
      read(text, value.get_string());
      if (text == "buy") event.maker = Maker::buyer;
      if (text == "sell") event.maker = Maker::seller;
    }
  }

  Message message_;
};

}  // namespace

std::unique_ptr<Feed> make_coinbase_feed() {
  return std::make_unique<CoinbaseFeed>();
}

}  // namespace tick::ingest
