// The fake exchange's messages; see wire.hpp.
#include "wire.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <charconv>
#include <functional>
#include <optional>

#include "number.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t least_per_instrument = 1000;
constexpr std::int64_t longest_page = 1000;

void append_time(std::string& out, std::int64_t us) {
  out += '"';
  out += format_time(Timestamp(std::chrono::microseconds(us)));
  out += '"';
}

std::string parameter(std::string_view target, std::string_view name) {
  auto rest = target.substr(std::min(target.find('?'), target.size()));
  while (!rest.empty()) {
    rest.remove_prefix(1);
    const auto end = std::min(rest.find('&'), rest.size());
    const auto pair = rest.substr(0, end);
    if (pair.starts_with(name) && pair.size() > name.size() && pair[name.size()] == '=')
      return std::string(pair.substr(name.size() + 1));
    rest.remove_prefix(end);
  }
  return "";
}

std::optional<std::int64_t> count_parameter(std::string_view target, std::string_view name) {
  return parse_integer(parameter(target, name));
}

}  // namespace

std::string instrument(std::string_view symbol) {
  std::string out;
  for (const char c : symbol)
    if (c != '-' && c != '/') out += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

void append_number(std::string& out, std::int64_t value) {
  char text[24];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  out.append(text, end);
}

void append_binance(std::string& out, const Trade& trade, Stream kind) {
  out += kind == Stream::trade ? R"({"e":"trade","E":)" : R"({"e":"aggTrade","E":)";
  append_number(out, trade.time_us / 1000);
  out += R"(,"s":")";
  out += trade.symbol;
  out += kind == Stream::trade ? R"(","t":)" : R"(","a":)";
  append_number(out, trade.id);
  out += R"(,"p":")";
  out += trade.price;
  out += R"(","q":")";
  out += trade.qty;
  if (kind == Stream::trade) {
    out += R"(","T":)";
  } else {
    out += R"(","f":)";
    append_number(out, trade.id);
    out += R"(,"l":)";
    append_number(out, trade.id);
    out += R"(,"T":)";
  }
  append_number(out, trade.time_us / 1000);
  out += trade.maker ? R"(,"m":true,"M":true})" : R"(,"m":false,"M":true})";
}

void append_coinbase(std::string& out, const Trade& trade, std::string_view name, const char* type) {
  out += '{';
  if (type[0] != '\0') out += std::string(R"("type":")") + type + R"(",)";
  out += R"("trade_id":)";
  append_number(out, trade.id);
  out += trade.maker ? R"(,"side":"buy","size":")" : R"(,"side":"sell","size":")";
  out += trade.qty;
  out += R"(","price":")";
  out += trade.price;
  if (!name.empty()) {
    out += R"(","product_id":")";
    out += name;
    out += R"(","sequence":)";
    append_number(out, 3 * trade.id);  // over all channels: not contiguous for one of them
  } else {
    out += '"';
  }
  out += R"(,"time":)";
  append_time(out, trade.time_us);
  out += '}';
}

void append_kraken(std::string& out, const Trade& trade, std::string_view name) {
  out += R"({"symbol":")";
  out += name;
  out += trade.maker ? R"(","side":"sell","price":)" : R"(","side":"buy","price":)";
  out += trade.price;
  out += R"(,"qty":)";
  out += trade.qty;
  out += R"(,"ord_type":"limit","trade_id":)";
  append_number(out, trade.id);
  out += R"(,"timestamp":)";
  append_time(out, trade.time_us);
  out += '}';
}

namespace {

void append_okx(std::string& out, const Trade& trade, std::string_view name) {
  out += R"({"instId":")";
  out += name;
  out += R"(","tradeId":")";
  append_number(out, trade.id);
  out += R"(","px":")";
  out += trade.price;
  out += R"(","sz":")";
  out += trade.qty;
  out += trade.maker ? R"(","side":"sell","ts":")" : R"(","side":"buy","ts":")";
  append_number(out, trade.time_us / 1000);
  out += "\"}";
}

void append_bybit_id(std::string& out, const Trade& trade, bool uuid) {
  if (!uuid) return append_number(out, trade.id);
  char text[40];
  const auto id = static_cast<unsigned long long>(trade.id);
  std::snprintf(text, sizeof text, "%08llx-0000-4000-8000-%012llx", id >> 32 & 0xffffffffu,
                id & 0xffffffffffffu);
  out += text;
}

void append_bybit(std::string& out, const Trade& trade, std::string_view name, bool uuid) {
  out += R"({"topic":"publicTrade.)";
  out += name;
  out += R"(","type":"snapshot","ts":)";
  append_number(out, trade.time_us / 1000);
  out += R"(,"data":[{"i":")";
  append_bybit_id(out, trade, uuid);
  out += R"(","T":)";
  append_number(out, trade.time_us / 1000);
  out += R"(,"p":")";
  out += trade.price;
  out += R"(","v":")";
  out += trade.qty;
  out += trade.maker ? R"(","S":"Sell","s":")" : R"(","S":"Buy","s":")";
  out += name;
  out += R"(","BT":false}]})";
}

void append_bitstamp(std::string& out, const Trade& trade, std::string_view name) {
  out += R"({"data":{"id":)";
  append_number(out, trade.id);
  out += R"(,"timestamp":")";
  append_number(out, trade.time_us / 1'000'000);
  out += R"(","amount_str":")";
  out += trade.qty;
  out += R"(","price_str":")";
  out += trade.price;
  out += trade.maker ? R"(","type":1,"microtimestamp":")" : R"(","type":0,"microtimestamp":")";
  append_number(out, trade.time_us);
  out += R"("},"channel":"live_trades_)";
  for (const char c : name) out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  out += R"(","event":"trade"})";
}

void append_gemini(std::string& out, const Trade& trade, std::string_view name) {
  out += R"({"type":"trade","symbol":")";
  out += name;
  out += R"(","event_id":)";
  append_number(out, trade.id);
  out += R"(,"timestamp":)";
  append_number(out, trade.time_us / 1000);
  out += R"(,"price":")";
  out += trade.price;
  out += R"(","quantity":")";
  out += trade.qty;
  out += trade.maker ? R"(","side":"sell"})" : R"(","side":"buy"})";
}

void append_advanced(std::string& out, const Trade& trade, std::string_view name) {
  out += R"({"channel":"market_trades","sequence_num":1,"events":[{"type":"update","trades":[{"trade_id":")";
  append_number(out, trade.id);
  out += R"(","product_id":")";
  out += name;
  out += R"(","price":")";
  out += trade.price;
  out += R"(","size":")";
  out += trade.qty;
  out += trade.maker ? R"(","side":"BUY","time":)" : R"(","side":"SELL","time":)";
  append_time(out, trade.time_us);
  out += "}]}]}";
}

void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void append_zigzag(std::string& out, int field, std::int64_t value) {
  append_varint(out, static_cast<std::uint64_t>(field) << 3);
  append_varint(out, static_cast<std::uint64_t>(value) << 1 ^ static_cast<std::uint64_t>(value >> 63));
}

void append_field(std::string& out, int field, std::string_view text) {
  append_varint(out, static_cast<std::uint64_t>(field) << 3 | 2);
  append_varint(out, text.size());
  out += text;
}

// The message that Yahoo's streamer calls PricingData.
void append_yahoo(std::string& out, const Trade& trade, std::string_view name, std::int64_t volume,
                  bool json) {
  std::string bytes;
  append_field(bytes, 1, name);
  float price = 0;
  std::from_chars(trade.price.data(), trade.price.data() + trade.price.size(), price);
  bytes += '\x15';  // field 2, four bytes
  for (int shift = 0; shift < 32; shift += 8)
    bytes += static_cast<char>(std::bit_cast<std::uint32_t>(price) >> shift);
  append_zigzag(bytes, 3, trade.time_us / 1000);
  append_field(bytes, 4, "USD");
  append_field(bytes, 5, "NMS");
  append_zigzag(bytes, 9, volume);
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  if (json) out += R"({"type":"pricing","message":")";
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < 3; ++i)
      bits = bits << 8 | (at + i < bytes.size() ? static_cast<unsigned char>(bytes[at + i]) : 0u);
    for (std::size_t i = 0; i < 4; ++i)
      out += at + i > bytes.size() ? '=' : digits[bits >> (18 - 6 * i) & 63];
  }
  if (json) out += "\"}";
}

}  // namespace

void append_message(std::string& out, Protocol protocol, const Trade& trade, std::string_view name,
                    std::int64_t volume) {
  switch (protocol) {
    case Protocol::binance:
      return append_binance(out, trade, Stream::trade);
    case Protocol::coinbase:
      return append_coinbase(out, trade, name, "match");
    case Protocol::coinbase_advanced:
      return append_advanced(out, trade, name);
    case Protocol::kraken:
      out += R"({"channel":"trade","type":"update","data":[)";
      append_kraken(out, trade, name);
      out += "]}";
      return;
    case Protocol::okx:
      out += R"({"arg":{"channel":"trades-all","instId":")";
      out += name;
      out += R"("},"data":[)";
      append_okx(out, trade, name);
      out += "]}";
      return;
    case Protocol::bybit:
    case Protocol::bybit_linear:
      return append_bybit(out, trade, name, protocol == Protocol::bybit_linear);
    case Protocol::bitstamp:
      return append_bitstamp(out, trade, name);
    case Protocol::gemini:
      return append_gemini(out, trade, name);
    case Protocol::yahoo:
    case Protocol::yahoo_v2:
      return append_yahoo(out, trade, name, volume, protocol == Protocol::yahoo_v2);
    case Protocol::jetstream:
      return;
  }
}

std::string_view protocol_name(Protocol protocol) {
  constexpr std::string_view names[] = {"binance", "coinbase", "coinbase.advanced", "kraken",
                                        "okx",     "bybit",    "bybit.linear",      "bitstamp",
                                        "gemini",  "yahoo",    "yahoo.v2",          "jetstream"};
  return names[static_cast<std::size_t>(protocol)];
}

void History::add(const Trade& trade) {
  if (capacity_ == 0) return;
  key_ = instrument(trade.symbol);
  auto& kept = kept_[key_];
  kept.push_back({trade.id, trade.time_us, std::string(trade.price), std::string(trade.qty), trade.maker});
  volumes_[key_] += 1 + trade.id % 100;
  while (kept.size() > std::max(least_per_instrument, capacity_ / kept_.size())) kept.pop_front();
}

const std::deque<History::Kept>* History::find(std::string_view name) const {
  const auto found = kept_.find(instrument(name));
  return found == kept_.end() || found->second.empty() ? nullptr : &found->second;
}

std::string History::kraken_snapshot(std::string_view name, std::size_t count) const {
  const auto* kept = find(name);
  if (kept == nullptr) return "";
  std::string out = R"({"channel":"trade","type":"snapshot","data":[)";
  for (std::size_t i = kept->size() - std::min(count, kept->size()); i < kept->size(); ++i) {
    if (out.back() != '[') out += ',';
    append_kraken(out, view((*kept)[i]), name);
  }
  return out + "]}";
}

std::string History::gemini_snapshot(std::string_view name, std::size_t count) const {
  std::string out = R"({"type":"l2_updates","symbol":")" + std::string(name) + R"(","changes":[],"trades":[)";
  if (const auto* kept = find(name))
    for (std::size_t i = kept->size(); i > kept->size() - std::min(count, kept->size()); --i) {
      if (out.back() != '[') out += ',';
      append_gemini(out, view((*kept)[i - 1]), name);
    }
  return out + "]}";
}

std::string History::coinbase_last_match(std::string_view name) const {
  const auto* kept = find(name);
  if (kept == nullptr) return "";
  std::string out;
  append_coinbase(out, view(kept->back()), name, "last_match");
  return out;
}

namespace {

// Some of CoinLore's coins; others are invented.
constexpr std::array<const char*, 3> coins[] = {
    {"BTC", "90", "Bitcoin"},  {"ETH", "80", "Ethereum"},  {"BNB", "2710", "Binance Coin"},
    {"ADA", "257", "Cardano"}, {"SOL", "48543", "Solana"}, {"ETC", "118", "Ethereum Classic"}};

std::string coin_id(const std::string& symbol) {
  for (const auto& coin : coins)
    if (symbol == coin[0]) return coin[1];
  return std::to_string(1'000'000 + std::hash<std::string>()(symbol) % 1'000'000);
}

std::string coin_name(const std::string& symbol) {
  for (const auto& coin : coins)
    if (symbol == coin[0]) return coin[2];
  return symbol + " Coin";
}

}  // namespace

std::int64_t History::volume(std::string_view name) const {
  const auto found = volumes_.find(instrument(name));
  return found == volumes_.end() ? 0 : found->second;
}

std::string History::yahoo_last(Protocol protocol, std::string_view name) const {
  const auto* kept = find(name);
  if (kept == nullptr) return "";
  std::string out;
  append_message(out, protocol, view(kept->back()), name, volume(name));
  return out;
}

std::optional<HttpReply> History::quotes(std::string_view target) const {
  const std::string_view path = target.substr(0, target.find('?'));
  if (path == "/api/tickers/" || path == "/api/tickers") {
    std::string out = R"({"data":[)";
    std::int64_t newest = 0;
    for (const auto& [name, kept] : kept_) {
      if (kept.empty()) continue;
      const std::string coin = name.ends_with("USDT") ? name.substr(0, name.size() - 4) : name;
      out += (out.back() == '[' ? "" : ",") + (R"({"id":")" + coin_id(coin)) + R"(","symbol":")" + coin +
             R"(","name":")" + coin_name(coin) + R"(","price_usd":")" + kept.back().price +
             R"(","volume24":1.5,"msupply":""})";
      newest = std::max(newest, kept.back().time_us);
    }
    return HttpReply{200, out + R"(],"info":{"coins_num":)" + std::to_string(kept_.size()) + R"(,"time":)" +
                              std::to_string(newest / 1'000'000) + "}}"};
  }
  if (path != "/api/v3/simple/price") return std::nullopt;
  std::string out = "{";
  std::string ids = parameter(target, "ids");
  for (std::size_t at = 0; at < ids.size();) {
    const auto end = std::min(ids.find(',', at), ids.size());
    const std::string id = ids.substr(at, end - at);
    at = end + 1;
    const auto* kept = find(id == "bitcoin" ? "BTCUSDT" : id == "ethereum" ? "ETHUSDT" : id + "USDT");
    if (kept == nullptr) continue;
    out += (out.size() > 1 ? ",\"" : "\"") + id + R"(":{"usd":)" + kept->back().price +
           R"(,"last_updated_at":)" + std::to_string(kept->back().time_us / 1'000'000) + "}";
  }
  return HttpReply{200, out + "}"};
}

// Of the exchanges whose ids are no sequence; "" when the route is none of theirs.
std::string History::by_time(std::string_view target) const {
  const std::string_view path = target.substr(0, target.find('?'));
  constexpr std::string_view bitstamp = "/api/v2/transactions/";
  constexpr std::string_view gemini = "/v1/trades/";
  const bool bybit = path == "/v5/market/recent-trade";
  if (!bybit && !path.starts_with(bitstamp) && !path.starts_with(gemini)) return "";
  std::string name =
      bybit ? parameter(target, "symbol")
            : std::string(path.substr(path.starts_with(gemini) ? gemini.size() : bitstamp.size()));
  if (name.ends_with('/')) name.pop_back();
  const auto* kept = find(name);
  auto first = kept == nullptr ? std::deque<Kept>::const_iterator() : kept->begin();
  auto last = kept == nullptr ? first : kept->end();
  const auto after = [](std::int64_t us, const Kept& a) { return us < a.time_us; };
  const auto shorten = [&](std::int64_t most, bool to_newest) {
    if (last - first <= most) return;
    to_newest ? first = last - most : last = first + most;
  };
  std::string out = "[";  // newest first, all of them
  const auto each = [&](auto&& append) {
    while (last != first) {
      if (out.size() > 1) out += ',';
      append(view(*--last));
    }
    return out + "]";
  };
  if (bybit) {
    const bool linear = parameter(target, "category") == "linear";
    shorten(std::clamp<std::int64_t>(count_parameter(target, "limit").value_or(linear ? 500 : 60), 1,
                                     linear ? longest_page : 60),
            true);
    each([&](const Trade& trade) {
      out += R"({"execId":")";
      append_bybit_id(out, trade, linear);
      out += R"(","symbol":")" + name + R"(","price":")" + std::string(trade.price) + R"(","size":")" +
             std::string(trade.qty) +
             (trade.maker ? R"(","side":"Sell","time":")" : R"(","side":"Buy","time":")");
      append_number(out, trade.time_us / 1000);
      out += R"(","isBlockTrade":false})";
    });
    return R"({"retCode":0,"retMsg":"OK","result":{"category":")" + parameter(target, "category") +
           R"(","list":)" + out + "]}}";
  }
  if (path.starts_with(bitstamp)) {
    const std::string span = parameter(target, "time");
    const std::int64_t seconds = span == "minute" ? 60 : span == "day" ? 86'400 : 3600;
    if (first != last)
      first = std::upper_bound(first, last, (last - 1)->time_us - seconds * 1'000'000, after);
    return each([&](const Trade& trade) {
      out += R"({"date":")";
      append_number(out, trade.time_us / 1'000'000);
      out += R"(","tid":")";
      append_number(out, trade.id);
      out += R"(","price":")" + std::string(trade.price) + R"(","type":")" + (trade.maker ? "1" : "0") +
             R"(","amount":")" + std::string(trade.qty) + "\"}";
    });
  }
  if (const auto since = count_parameter(target, "since_tid"))
    first = std::upper_bound(first, last, *since, [](std::int64_t id, const Kept& a) { return id < a.id; });
  else if (const auto ms = count_parameter(target, "timestamp"))
    first = std::upper_bound(first, last, *ms * 1000, after);
  const std::int64_t most =
      std::clamp<std::int64_t>(count_parameter(target, "limit_trades").value_or(50), 1, 500);
  shorten(most, parameter(target, "since_tid").empty() && parameter(target, "timestamp").empty());
  return each([&](const Trade& trade) {
    out += R"({"timestamp":)";
    append_number(out, trade.time_us / 1'000'000);
    out += R"(,"timestampms":)";
    append_number(out, trade.time_us / 1000);
    out += R"(,"tid":)";
    append_number(out, trade.id);
    out += R"(,"price":")" + std::string(trade.price) + R"(","amount":")" + std::string(trade.qty) +
           R"(","exchange":"gemini","type":")" + (trade.maker ? "sell" : "buy") + "\"}";
  });
}

HttpReply History::rest(std::string_view target) {
  const std::string_view path = target.substr(0, target.find('?'));
  if (std::string answer = by_time(target); !answer.empty()) {
    ++requests_;
    if (busy_every_ == 0 || requests_ % busy_every_ != 0) return {200, std::move(answer)};
    ++turned_away_;
    return {429, "{}", 1};
  }
  const bool binance = path.starts_with("/api/v3/");
  const bool kraken = path == "/0/public/Trades";
  const bool coinbase = path.starts_with("/products/") && path.ends_with("/trades");
  const bool okx = path == "/api/v5/market/history-trades";
  if (!binance && !kraken && !coinbase && !okx) return {404, "{\"msg\":\"no such route\"}"};
  ++requests_;
  if (busy_every_ > 0 && requests_ % busy_every_ == 0) {
    ++turned_away_;
    if (kraken) return {200, R"({"error":["EGeneral:Too many requests"]})"};
    if (okx) return {429, R"({"code":"50011","msg":"Too Many Requests","data":[]})", 1};
    return {429, R"({"code":-1003,"msg":"Too many requests"})", 1};
  }
  const std::int64_t limit = std::clamp<std::int64_t>(
      count_parameter(target, kraken ? "count" : "limit").value_or(500), 1, okx ? 100 : longest_page);
  std::string name = binance  ? parameter(target, "symbol")
                     : kraken ? parameter(target, "pair")
                     : okx    ? parameter(target, "instId")
                              : std::string(path.substr(10, path.size() - 17));
  const auto* kept = find(name);
  if (kept == nullptr && kraken && name.starts_with("XBT")) kept = find("BTC" + name.substr(3));
  static const std::deque<Kept> nothing;
  if (kept == nullptr) kept = &nothing;
  const auto by_id = [](const Kept& a, std::int64_t id) { return a.id < id; };
  std::string out = "[";
  if (binance) {
    auto at = kept->begin();
    if (const auto from = count_parameter(target, "fromId"))
      at = std::lower_bound(kept->begin(), kept->end(), *from, by_id);
    else if (static_cast<std::int64_t>(kept->size()) > limit)
      at = kept->end() - limit;
    const bool agg = path.ends_with("/aggTrades");
    for (std::int64_t n = 0; n < limit && at != kept->end(); ++n, ++at) {
      if (out.size() > 1) out += ',';
      out += agg ? R"({"a":)" : R"({"id":)";
      append_number(out, at->id);
      out += (agg ? R"(,"p":")" : R"(,"price":")") + at->price;
      out += (agg ? R"(","q":")" : R"(","qty":")") + at->qty;
      out += agg ? R"(","T":)" : R"(","time":)";
      append_number(out, at->time_us / 1000);
      out += agg ? R"(,"m":)" : R"(,"isBuyerMaker":)";
      out += at->maker ? "true}" : "false}";
    }
    return {200, out + "]"};
  }
  if (coinbase || okx) {  // newest first, ids below `after`
    auto at = kept->end();
    if (const auto after = count_parameter(target, "after"))
      at = std::lower_bound(kept->begin(), kept->end(), *after, by_id);
    for (std::int64_t n = 0; n < limit && at != kept->begin(); ++n) {
      --at;
      if (out.size() > 1) out += ',';
      okx ? append_okx(out, view(*at), name) : append_coinbase(out, view(*at), "", "");
    }
    return {200, okx ? R"({"code":"0","msg":"","data":)" + out + "]}" : out + "]"};
  }
  const std::int64_t since = count_parameter(target, "since").value_or(0) / 1000;
  auto at = std::lower_bound(kept->begin(), kept->end(), since,
                             [](const Kept& a, std::int64_t us) { return a.time_us <= us; });
  std::int64_t last = since;
  for (std::int64_t n = 0; n < limit && at != kept->end(); ++n, ++at) {
    if (out.size() > 1) out += ',';
    char seconds[40];
    std::snprintf(seconds, sizeof seconds, "%lld.%06lld", static_cast<long long>(at->time_us / 1'000'000),
                  static_cast<long long>(at->time_us % 1'000'000));
    out += "[\"" + at->price + "\",\"" + at->qty + "\"," + seconds +
           (at->maker ? R"(,"s","l","",)" : R"(,"b","l","",)");
    append_number(out, at->id);
    out += ']';
    last = at->time_us;
  }
  return {200, R"({"error":[],"result":{")" + name + "\":" + out + R"(],"last":")" +
                   std::to_string(last * 1000) + R"("}})"};
}

}  // namespace tick::ingest
