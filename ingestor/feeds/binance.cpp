// Binance spot: trade and aggTrade events, raw and in the combined-stream envelope.
// decode() walks the message once, with simdjson On-Demand unless it is as plain as nearly all of them are;
// numbers go from their literal text to double by parse_decimal alone. Other events are ignored by their "e";
// a broken one is a value, never an exception.
#include <algorithm>
#include <cctype>

#include "event.hpp"
#include "flat.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t symbols_in_url = 100;
constexpr std::size_t symbols_per_request = 200;

struct BinanceEvent : Event {
  std::optional<std::string_view> kind;
  std::optional<std::int64_t> trade_id;
  std::optional<std::int64_t> agg_id;
  bool has_result = false;
  bool has_error = false;
};

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

class BinanceFeed final : public Feed {
 public:
  explicit BinanceFeed(Stream stream) : wanted_(stream) {}

  Decoded decode(std::string_view message, Timestamp received, std::vector<Tick>& out) override {
    BinanceEvent event;
    if (decode_plain(message, event)) return finish(event, received, out);
    json::object root;
    if (const auto other = message_.open(message, root)) return *other;
    event = {};
    bool enveloped = false;
    bool ours = true;
    for (auto field : root) {
      std::string_view key;
      if (field.unescaped_key().get(key)) return {Verdict::malformed, "broken JSON"};
      json::value value;
      if (field.value().get(value)) return {Verdict::malformed, "broken JSON"};
      if (key == "data") {
        json::object data;
        if (value.get_object().get(data)) continue;  // e.g. the array of an all-market stream
        enveloped = true;
        for (auto inner : data) {
          if (inner.unescaped_key().get(key) || inner.value().get(value))
            return {Verdict::malformed, "broken JSON"};
          if (!note(key, value, event)) {
            ours = false;
            break;
          }
        }
        if (!ours) break;
      } else if (key == "stream") {
        enveloped = true;
      } else if (!note(key, value, event)) {
        ours = false;
        break;
      }
    }
    if (!ours) return {event.kind == "serverShutdown" ? Verdict::shutdown : Verdict::ignored, ""};
    if (!message_.complete()) return {Verdict::malformed, "text after the JSON object"};
    if (event.kind) return finish(event, received, out);
    if (event.has_error) return {Verdict::refused, "the exchange refused a request"};
    if (event.has_result) return {Verdict::reply, ""};
    return {enveloped ? Verdict::ignored : Verdict::unknown, ""};
  }

  std::string url(std::string_view base, const std::vector<std::string>& symbols,
                  Stream stream) const override {
    std::string address(base);
    while (address.ends_with('/')) address.pop_back();
    if (has_path(address)) return std::string(base);
    address += "/stream";
    if (symbols.size() > symbols_in_url) return address;
    char separator = '?';
    for (const auto& symbol : symbols) {
      address += separator == '?' ? "?streams=" : "/";
      separator = '/';
      address += lower(symbol) + "@" + std::string(stream_name(stream));
    }
    return address;
  }

  std::vector<std::string> greetings(std::string_view base, const std::vector<std::string>& symbols,
                                     Stream stream) const override {
    std::string address(base);
    while (address.ends_with('/')) address.pop_back();
    if (has_path(address) || symbols.size() <= symbols_in_url) return {};
    return subscribe(symbols, stream, true);
  }

  std::optional<std::string> history(std::string_view symbol, const Wanted& want,
                                     const std::vector<Tick>* page) const override {
    std::int64_t from = want.first;
    if (page != nullptr) {
      if (page->size() < history_page || page->back().id >= want.last) return std::nullopt;
      from = page->back().id + 1;
    }
    return (wanted_ == Stream::agg_trade ? "/api/v3/aggTrades?symbol=" : "/api/v3/historicalTrades?symbol=") +
           std::string(symbol) + "&fromId=" + std::to_string(from) + "&limit=" + std::to_string(history_page);
  }

  Decoded decode_history(std::string_view body, std::string_view symbol, Timestamp received,
                         std::vector<Tick>& out) override {
    json::array trades;
    if (const auto other = message_.open(body, trades)) return *other;
    return append_history(trades, symbol, received, out, note_history);
  }

  // historicalTrades weighs 25 and aggTrades 4 of 6000 a minute: a third of it, and a quarter.
  std::chrono::milliseconds history_interval() const override {
    return std::chrono::milliseconds(wanted_ == Stream::agg_trade ? 160 : 750);
  }

  std::vector<std::string> subscribe(const std::vector<std::string>& symbols, Stream stream,
                                     bool add) const override {
    std::vector<std::string> streams;
    for (const auto& symbol : symbols)
      streams.push_back(lower(symbol) + "@" + std::string(stream_name(stream)));
    return subscription_requests(
        streams, symbols_per_request,
        add ? R"({"method":"SUBSCRIBE","params":[)" : R"({"method":"UNSUBSCRIBE","params":[)", "],\"id\":@}");
  }

 private:
  static bool has_path(std::string_view address) {
    const auto scheme = address.find("://");
    return address.find_first_of("/?", scheme == std::string_view::npos ? 0 : scheme + 3) !=
           std::string_view::npos;
  }

  // True for a trade as the exchange writes it, in or without an envelope.
  static bool decode_plain(std::string_view message, BinanceEvent& event) {
    Flat flat(message);
    std::string_view stream;
    const bool enveloped = flat.take(R"({"stream":")");
    if (enveloped && (!flat.take_string(stream) || !flat.take(R"(,"data":)"))) return false;
    return flat.members(
               [&](char name, const Flat::Value& value) { return note_plain(name, value, event); }) &&
           (!enveloped || flat.take("}")) && flat.ended() && event.kind;
  }

  static bool note_plain(char name, const Flat::Value& value, BinanceEvent& event) {
    const auto text = [&](std::optional<std::string_view>& field) {
      field = value.text;
      return value.kind == Flat::Kind::string;
    };
    switch (name) {
      case 'e':
        return text(event.kind) && (*event.kind == "trade" || *event.kind == "aggTrade");
      case 's':
        return text(event.symbol);
      case 'p':
        return text(event.price);
      case 'q':
        return text(event.qty);
      case 'T':
        event.time = epoch_time(value.whole);
        return value.kind == Flat::Kind::whole;
      case 't':
        event.trade_id = value.whole;
        return value.kind == Flat::Kind::whole;
      case 'a':
        event.agg_id = value.whole;
        return value.kind == Flat::Kind::whole;
      case 'm':
        event.maker = value.whole != 0 ? Maker::buyer : Maker::seller;
        return value.kind == Flat::Kind::boolean;
      default:
        return true;
    }
  }

  // Takes one field of an event; false as soon as the event turns out to be of another kind.
  static bool note(std::string_view key, json::value& value, BinanceEvent& event) {
    if (key.size() != 1) {
      if (key == "result") event.has_result = true;
      if (key == "error" || key == "code" || key == "msg") event.has_error = true;
      return true;
    }
    switch (key[0]) {
      case 'e':
        read(event.kind, value.get_string());
        return !event.kind || *event.kind == "trade" || *event.kind == "aggTrade";
      case 's':
        read(event.symbol, value.get_string());
        break;
      case 'p':
        read(event.price, value.get_string());
        break;
      case 'q':
        read(event.qty, value.get_string());
        break;
      case 'T': {
        std::optional<std::int64_t> time;
        read(time, value.get_int64());
        event.time = time ? epoch_time(*time) : std::nullopt;
        break;
      }
      case 't':
        read(event.trade_id, value.get_int64());
        break;
      case 'a':
        read(event.agg_id, value.get_int64());
        break;
      case 'm': {
        std::optional<bool> buyer;
        read(buyer, value.get_bool());
        if (buyer) event.maker = *buyer ? Maker::buyer : Maker::seller;
        break;
      }
      default:
        break;
    }
    return true;
  }

  static void note_history(std::string_view key, json::value& value, Event& event) {
    if (key == "price" || key == "p") {
      event.price = digits_of(value);
    } else if (key == "qty" || key == "q") {
      event.qty = digits_of(value);
    } else if (key == "id" || key == "a") {
      read(event.id, value.get_int64());
    } else if (key == "time" || key == "T") {
      std::optional<std::int64_t> time;
      read(time, value.get_int64());
      event.time = time ? epoch_time(*time) : std::nullopt;
    } else if (key == "isBuyerMaker" || key == "m") {
      std::optional<bool> buyer;
      read(buyer, value.get_bool());
      if (buyer) event.maker = *buyer ? Maker::buyer : Maker::seller;
    }
  }

  Decoded finish(BinanceEvent& event, Timestamp received, std::vector<Tick>& out) {
    const Stream kind = *event.kind == "trade" ? Stream::trade : Stream::agg_trade;
    event.id = kind == Stream::trade ? event.trade_id : event.agg_id;
    if (const char* wrong = append_tick(event, received, out)) return {Verdict::malformed, wrong};
    if (wanted_ == Stream::any) wanted_ = kind;  // both streams tell the same trades: never count them twice
    if (kind == wanted_) return {Verdict::tick, ""};
    out.pop_back();
    return {Verdict::ignored, ""};
  }

  Stream wanted_;
  Message message_;
};

}  // namespace

std::string_view stream_name(Stream stream) {
  return stream == Stream::agg_trade ? "aggTrade" : "trade";
}

std::unique_ptr<Feed> make_binance_feed(Stream stream) {
  return std::make_unique<BinanceFeed>(stream);
}

}  // namespace tick::ingest
