// Binance spot: trade and aggTrade events, raw and in the combined-stream envelope.
// decode() walks the message once with simdjson On-Demand; numbers go from their literal text to double by
// parse_decimal alone. Other events are ignored by their "e"; a broken one is a value, never an exception.
#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

#include <simdjson.h>

#include "../feed.hpp"
#include "../number.hpp"

namespace tick::ingest {

namespace {

namespace json = simdjson::ondemand;

constexpr std::size_t symbols_in_url = 100;
constexpr std::size_t symbols_per_request = 200;
constexpr std::string_view stream_host_suffixes[] = {"stream.binance.com", "data-stream.binance.vision"};

// The values of one event, in whatever order they came. `bad` remembers a field of a wrong JSON type.
struct Event {
  std::optional<std::string_view> kind;
  std::optional<std::string_view> symbol;
  std::optional<std::string_view> price;
  std::optional<std::string_view> qty;
  std::optional<std::int64_t> time;
  std::optional<std::int64_t> trade_id;
  std::optional<std::int64_t> agg_id;
  std::optional<bool> maker;
  bool has_result = false;
  bool has_error = false;
};

template <class T, class Value>
void read(std::optional<T>& field, Value value) {
  T got{};
  if (std::move(value).get(got) == simdjson::SUCCESS) field = got;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

class BinanceFeed final : public Feed {
 public:
  explicit BinanceFeed(Stream stream) : wanted_(stream) {}

  Decoded decode(std::string_view message, Timestamp received, std::vector<Tick>& out) override {
    if (message.empty()) return {Verdict::malformed, "empty message"};
    if (scratch_.size() < message.size() + simdjson::SIMDJSON_PADDING)
      scratch_.resize(message.size() * 2 + simdjson::SIMDJSON_PADDING);
    std::copy(message.begin(), message.end(), scratch_.begin());
    json::document document;
    if (parser_.iterate(scratch_.data(), message.size(), scratch_.size()).get(document))
      return {Verdict::malformed, "not JSON"};
    json::object root;
    json::json_type type{};
    if (document.type().get(type)) return {Verdict::malformed, "not JSON"};
    if (type == json::json_type::array) return {Verdict::unknown, ""};
    if (document.get_object().get(root)) return {Verdict::malformed, "not a JSON object"};
    Event event;
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
    const char* rest = nullptr;
    if (document.current_location().get(rest) == simdjson::SUCCESS)
      return {Verdict::malformed, "text after the JSON object"};
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
    std::vector<std::string> requests;
    std::string address(base);
    while (address.ends_with('/')) address.pop_back();
    if (has_path(address) || symbols.size() <= symbols_in_url) return requests;
    for (std::size_t first = 0; first < symbols.size(); first += symbols_per_request) {
      std::string text = R"({"method":"SUBSCRIBE","params":[)";
      const std::size_t last = std::min(first + symbols_per_request, symbols.size());
      for (std::size_t i = first; i < last; ++i) {
        if (i > first) text += ',';
        text += '"' + lower(symbols[i]) + "@" + std::string(stream_name(stream)) + '"';
      }
      text += "],\"id\":" + std::to_string(requests.size() + 1) + "}";
      requests.push_back(std::move(text));
    }
    return requests;
  }

 private:
  static bool has_path(std::string_view address) {
    const auto scheme = address.find("://");
    return address.find_first_of("/?", scheme == std::string_view::npos ? 0 : scheme + 3) !=
           std::string_view::npos;
  }

  // Takes one field of an event; false as soon as the event turns out to be of another kind.
  static bool note(std::string_view key, json::value& value, Event& event) {
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
      case 'T':
        read(event.time, value.get_int64());
        break;
      case 't':
        read(event.trade_id, value.get_int64());
        break;
      case 'a':
        read(event.agg_id, value.get_int64());
        break;
      case 'm':
        read(event.maker, value.get_bool());
        break;
      default:
        break;
    }
    return true;
  }

  Decoded finish(const Event& event, Timestamp received, std::vector<Tick>& out) {
    const Stream kind = *event.kind == "trade" ? Stream::trade : Stream::agg_trade;
    const auto& id = kind == Stream::trade ? event.trade_id : event.agg_id;
    Tick tick;
    if (!event.symbol || !tick.symbol.assign(*event.symbol)) return {Verdict::malformed, "no usable symbol"};
    if (!event.price || !event.qty) return {Verdict::malformed, "price or quantity is missing"};
    const auto price = parse_decimal(*event.price);
    const auto qty = parse_decimal(*event.qty);
    if (!price || *price <= 0) return {Verdict::malformed, "impossible price"};
    if (!qty || *qty <= 0) return {Verdict::malformed, "impossible quantity"};
    if (!id || *id < 0) return {Verdict::malformed, "trade id is missing"};
    const auto ts = event.time ? epoch_time(*event.time) : std::nullopt;
    if (!ts) return {Verdict::malformed, "impossible trade time"};
    if (received != Timestamp{} && *ts > received + std::chrono::days(1))
      return {Verdict::malformed, "trade time is more than a day ahead"};
    if (!event.maker) return {Verdict::malformed, "buyer-is-maker flag is missing"};
    if (wanted_ == Stream::any) wanted_ = kind;  // both streams tell the same trades: never count them twice
    if (kind != wanted_) return {Verdict::ignored, ""};
    tick.ts = *ts;
    tick.received = received;
    tick.price = *price;
    tick.qty = *qty;
    tick.has_qty = true;
    tick.id = *id;
    tick.has_id = true;
    tick.maker = *event.maker ? Maker::buyer : Maker::seller;
    out.push_back(tick);
    return {Verdict::tick, ""};
  }

  Stream wanted_;
  json::parser parser_;
  std::vector<char> scratch_;
};

}  // namespace

std::string_view stream_name(Stream stream) {
  return stream == Stream::agg_trade ? "aggTrade" : "trade";
}

std::unique_ptr<Feed> make_binance_feed(Stream stream) {
  return std::make_unique<BinanceFeed>(stream);
}

bool is_binance_host(std::string_view host) {
  return std::any_of(std::begin(stream_host_suffixes), std::end(stream_host_suffixes),
                     [&](std::string_view known) { return host == known; });
}

}  // namespace tick::ingest
