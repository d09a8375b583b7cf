// Kraken WebSocket v2: the `trade` channel. A message holds several trades; prices and quantities are JSON
// numbers and go to double from their literal text. Its subscription begins with a snapshot of the newest
// trades, which is handed on in ascending order of ids like everything else.
#include "event.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t symbols_per_request = 100;

class KrakenFeed final : public Feed {
 public:
  Decoded decode(std::string_view message, Timestamp received, std::vector<Tick>& out) override {
    json::object root;
    if (const auto other = message_.open(message, root)) return *other;
    const std::size_t before = out.size();
    const auto give_up = [&](Verdict verdict, const char* reason) -> Decoded {
      out.resize(before);
      return {verdict, reason};
    };
    std::optional<std::string_view> channel;
    bool has_method = false;
    bool has_error = false;
    const char* wrong = nullptr;
    std::uint32_t bad = 0;
    bool has_data = false;
    for (auto field : root) {
      std::string_view key;
      json::value value;
      if (field.unescaped_key().get(key) || field.value().get(value))
        return give_up(Verdict::malformed, "broken JSON");
      if (key == "channel") {
        read(channel, value.get_string());
        if (channel && *channel != "trade") return give_up(Verdict::ignored, "");
      } else if (key == "method") {
        has_method = true;
      } else if (key == "error") {
        has_error = true;
      } else if (key == "data") {
        json::array trades;
        if (value.get_array().get(trades)) {
          ++bad;
          wrong = "data is not an array";
          continue;
        }
        has_data = true;
        for (auto element : trades) {
          json::object trade;
          Event event;
          if (element.get_object().get(trade)) return give_up(Verdict::malformed, "a trade is not an object");
          for (auto member : trade)
            if (member.unescaped_key().get(key) || member.value().get(value) || !note(key, value, event))
              return give_up(Verdict::malformed, "broken JSON");
          if (const char* reason = append_tick(event, received, out)) {
            ++bad;
            wrong = reason;
          }
        }
      }
    }
    if (!message_.complete()) return give_up(Verdict::malformed, "text after the JSON object");
    if (!channel) {
      if (has_error) return give_up(Verdict::refused, "the exchange refused a request");
      return give_up(has_method ? Verdict::reply : Verdict::unknown, "");
    }
    if (out.size() == before) {
      if (wrong != nullptr) return {Verdict::malformed, wrong};
      return {has_data ? Verdict::ignored : Verdict::malformed, has_data ? "" : "no data"};
    }
    sort_by_id(out, before);
    return {Verdict::tick, wrong == nullptr ? "" : wrong, bad};
  }

  // By time: the cursor is the time of the last trade known, which comes again with those of its instant.
  std::optional<std::string> history(std::string_view symbol, const Wanted& want,
                                     const std::vector<Tick>* page) const override {
    Timestamp since = want.after - std::chrono::microseconds(1);
    if (page != nullptr) {
      if (page->empty() || page->back().id >= want.last || page->size() < history_page) return std::nullopt;
      since = page->back().ts - std::chrono::microseconds(1);
      if (page->front().ts >= since) since = page->back().ts;  // a page of one instant
    }
    std::string pair;
    for (const char c : symbol)
      if (c != '/') pair += c;
    if (pair.starts_with("BTC")) pair.replace(0, 3, "XBT");
    if (pair.starts_with("DOGE")) pair.replace(0, 4, "XDG");
    return "/0/public/Trades?pair=" + pair + "&count=" + std::to_string(history_page) +
           "&since=" + std::to_string(since.time_since_epoch().count() * 1000);
  }

  bool history_by_time() const override { return true; }

  // {"error":[],"result":{"XXBTZUSD":[["105433.6","0.0002",1762795433.97,"b","l","",10218208]],"last":"..."}}
  Decoded decode_history(std::string_view body, std::string_view symbol, Timestamp received,
                         std::vector<Tick>& out) override {
    json::object root;
    const std::size_t before = out.size();
    const auto give_up = [&](Verdict verdict, const char* reason) -> Decoded {
      out.resize(before);
      return {verdict, reason};
    };
    if (const auto other = message_.open(body, root)) return *other;
    bool has_result = false;
    for (auto field : root) {
      std::string_view key;
      json::value value;
      json::object result;
      if (field.unescaped_key().get(key) || field.value().get(value))
        return give_up(Verdict::malformed, "broken JSON");
      if (key == "error") {
        json::array errors;
        bool none = true;
        if (value.get_array().get(errors) || errors.is_empty().get(none))
          return give_up(Verdict::malformed, "error is not an array");
        if (!none) return give_up(Verdict::refused, "the exchange refused a request");
      }
      if (key != "result") continue;
      if (value.get_object().get(result)) return give_up(Verdict::malformed, "result is not an object");
      has_result = true;
      for (auto member : result) {
        json::array trades;
        if (member.unescaped_key().get(key) || member.value().get(value))
          return give_up(Verdict::malformed, "broken JSON");
        if (key == "last") continue;
        if (value.get_array().get(trades)) return give_up(Verdict::malformed, "trades are not an array");
        for (auto element : trades) {
          json::array trade;
          if (element.get_array().get(trade)) return give_up(Verdict::malformed, "a trade is not an array");
          Event event;
          event.symbol = symbol;
          std::size_t column = 0;
          for (auto item : trade) {
            if (item.get(value)) return give_up(Verdict::malformed, "broken JSON");
            note_column(column++, value, event);
          }
          if (const char* wrong = append_tick(event, received, out))
            return give_up(Verdict::malformed, wrong);
        }
      }
    }
    if (!has_result) return give_up(Verdict::refused, "no result");
    sort_by_id(out, before);
    return {Verdict::tick, ""};
  }

  std::chrono::milliseconds history_interval() const override { return std::chrono::milliseconds(1000); }

  std::vector<std::string> subscribe(const std::vector<std::string>& symbols, Stream,
                                     bool add) const override {
    return subscription_requests(
        symbols, symbols_per_request,
        add ? R"({"method":"subscribe","params":{"channel":"trade","snapshot":true,"symbol":[)"
            : R"({"method":"unsubscribe","params":{"channel":"trade","symbol":[)",
        "]},\"req_id\":@}");
  }

 private:
  static bool note(std::string_view key, json::value& value, Event& event) {
    if (key == "symbol") {
      read(event.symbol, value.get_string());
    } else if (key == "price") {
      event.price = digits_of(value);
    } else if (key == "qty") {
      event.qty = digits_of(value);
    } else if (key == "trade_id") {
      read(event.id, value.get_int64());
    } else if (key == "timestamp") {
      std::optional<std::string_view> text;
      read(text, value.get_string());
      event.time = text ? parse_time(*text) : std::nullopt;
    } else if (key == "side") {  // the taker's
      std::optional<std::string_view> side;
      read(side, value.get_string());
      if (side == "buy") event.maker = Maker::seller;
      if (side == "sell") event.maker = Maker::buyer;
    }
    return true;
  }

  static void note_column(std::size_t column, json::value& value, Event& event) {
    switch (column) {
      case 0:
        event.price = digits_of(value);
        break;
      case 1:
        event.qty = digits_of(value);
        break;
      case 2:
        if (const auto text = digits_of(value)) event.time = parse_time(*text);
        break;
      case 3: {
        std::optional<std::string_view> side;
        read(side, value.get_string());
        if (side == "b") event.maker = Maker::seller;
        if (side == "s") event.maker = Maker::buyer;
        break;
      }
      case 6:
        read(event.id, value.get_int64());
        break;
      default:
        break;
    }
  }

  Message message_;
};

}  // namespace

std::unique_ptr<Feed> make_kraken_feed() {
  return std::make_unique<KrakenFeed>();
}

}  // namespace tick::ingest
