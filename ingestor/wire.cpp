// The fake exchange's messages; see wire.hpp.
#include "wire.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
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

void History::add(const Trade& trade) {
  if (capacity_ == 0) return;
  key_ = instrument(trade.symbol);
  auto& kept = kept_[key_];
  kept.push_back({trade.id, trade.time_us, std::string(trade.price), std::string(trade.qty), trade.maker});
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

std::string History::coinbase_last_match(std::string_view name) const {
  const auto* kept = find(name);
  if (kept == nullptr) return "";
  std::string out;
  append_coinbase(out, view(kept->back()), name, "last_match");
  return out;
}

HttpReply History::rest(std::string_view target) {
  const std::string_view path = target.substr(0, target.find('?'));
  const bool binance = path.starts_with("/api/v3/");
  const bool kraken = path == "/0/public/Trades";
  const bool coinbase = path.starts_with("/products/") && path.ends_with("/trades");
  if (!binance && !kraken && !coinbase) return {404, "{\"msg\":\"no such route\"}"};
  ++requests_;
  if (busy_every_ > 0 && requests_ % busy_every_ == 0) {
    ++turned_away_;
    if (kraken) return {200, R"({"error":["EGeneral:Too many requests"]})"};
    return {429, R"({"code":-1003,"msg":"Too many requests"})", 1};
  }
  const std::int64_t limit = std::clamp<std::int64_t>(
      count_parameter(target, kraken ? "count" : "limit").value_or(500), 1, longest_page);
  std::string name = binance  ? parameter(target, "symbol")
                     : kraken ? parameter(target, "pair")
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
  if (coinbase) {  // newest first, ids below `after`
    auto at = kept->end();
    if (const auto after = count_parameter(target, "after"))
      at = std::lower_bound(kept->begin(), kept->end(), *after, by_id);
    for (std::int64_t n = 0; n < limit && at != kept->begin(); ++n) {
      --at;
      if (out.size() > 1) out += ',';
      append_coinbase(out, view(*at), "", "");
    }
    return {200, out + "]"};
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
