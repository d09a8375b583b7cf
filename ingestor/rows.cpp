// Column names and the one place where ten texts become a Tick; see rows.hpp.
#include "rows.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <stdexcept>

#include <simdjson.h>

#include "number.hpp"

namespace tick::ingest {

namespace {

using Texts = std::array<std::optional<std::string_view>, role_count>;

struct Names {
  std::string_view role;
  std::vector<std::string_view> names;  // best first; one-letter names are case sensitive
};

const std::array<Names, role_count>& known_names() {
  static const std::array<Names, role_count> names = {{
      {"symbol", {"symbol", "s", "pair", "product_id", "instrument", "market", "ticker"}},
      {"ts", {"ts", "timestamp", "T", "time", "trade_time", "event_time", "datetime", "date"}},
      {"price", {"price", "p", "px"}},
      {"qty", {"qty", "q", "quantity", "size", "amount", "volume", "v"}},
      {"trade_id", {"trade_id", "tradeid", "agg_trade_id", "aggtradeid", "id", "a", "t"}},
      {"is_buyer_maker", {"is_buyer_maker", "isbuyermaker", "buyer_maker", "m"}},
      {"side", {"side", "taker_side"}},
      {"exchange", {"exchange", "venue"}},
      {"received_at", {"received_at"}},
      {"name", {}},  // only where it is told
  }};
  return names;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

// How well a column name fits a role (0 = best), if it fits.
std::optional<int> rank(std::size_t role, std::string_view name) {
  const std::string folded = name.size() == 1 ? std::string(name) : lower(name);
  const auto& names = known_names()[role].names;
  const auto found = std::find(names.begin(), names.end(), folded);
  if (found == names.end()) return std::nullopt;
  return static_cast<int>(found - names.begin());
}

// What fits of a name, whole UTF-8 characters.
std::string_view shortened(std::string_view name) {
  std::size_t size = std::min<std::size_t>(name.size(), 31);
  while (size > 0 && size < name.size() && (static_cast<unsigned char>(name[size]) & 0xc0u) == 0x80u) --size;
  return name.substr(0, size);
}

Decoded assemble(const Texts& texts, const RowOptions& options, Timestamp received, std::vector<Tick>& out) {
  const auto text = [&](Role role) {
    const auto& found = texts[static_cast<std::size_t>(role)];
    return found && !found->empty() ? found : std::nullopt;
  };
  Tick tick;
  if (!text(Role::symbol) && options.symbol.empty())
    return {Verdict::malformed,
            "no symbol where --columns looks for it (replay: --symbol, standard input: --symbols names one "
            "for all)"};
  if (!tick.symbol.assign(text(Role::symbol).value_or(options.symbol)))
    return {Verdict::malformed, "impossible symbol"};
  if (!text(Role::ts)) return {Verdict::malformed, "no time where --columns looks for it"};
  if (!text(Role::price)) return {Verdict::malformed, "no price where --columns looks for it"};
  const auto ts_text = text(Role::ts).value_or("");
  const auto ts = parse_time(ts_text);
  if (!ts) return {Verdict::malformed, "impossible time"};
  const bool zoned = tells_zone(ts_text);
  if (!zoned && !options.offset)
    return {Verdict::malformed, "a time without zone: say which it is with --tz UTC or --tz +02:00"};
  const auto price = parse_decimal(text(Role::price).value_or(""));
  if (!price || *price <= 0) return {Verdict::malformed, "impossible price"};
  tick.ts = zoned ? *ts : *ts - *options.offset;
  tick.price = *price;
  if (const auto qty_text = text(Role::qty)) {
    const auto qty = parse_decimal(*qty_text);
    if (!qty || *qty < 0) return {Verdict::malformed, "impossible quantity"};
    tick.qty = *qty;
    tick.has_qty = true;
  }
  if (const auto id_text = text(Role::id)) {
    const auto id = parse_integer(*id_text);
    if (!id) return {Verdict::malformed, "trade id is not a whole number"};
    tick.id = *id;
    tick.has_id = true;
  }
  if (const auto maker_text = text(Role::maker)) {
    const auto maker = parse_bool(*maker_text);
    if (!maker) return {Verdict::malformed, "buyer-is-maker flag is not a boolean"};
    tick.maker = *maker ? Maker::buyer : Maker::seller;
  } else if (const auto side = text(Role::side)) {
    const std::string taker = lower(*side);
    if (taker == "sell") tick.maker = Maker::buyer;
    if (taker == "buy") tick.maker = Maker::seller;
  }
  if (const auto exchange = text(Role::exchange))
    if (!tick.exchange.assign(*exchange)) return {Verdict::malformed, "exchange name is too long"};
  if (const auto name = text(Role::name)) tick.name.assign(shortened(*name));
  tick.received = received;
  if (const auto received_text = text(Role::received))
    if (const auto time = parse_time(*received_text)) tick.received = *time;
  out.push_back(tick);
  return {Verdict::tick, ""};
}

}  // namespace

std::optional<std::map<Role, std::string>> parse_columns(std::string_view text, std::string& mistake) {
  std::map<Role, std::string> columns;
  while (!text.empty()) {
    const auto comma = text.find(',');
    const std::string_view pair = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    const auto equals = pair.find('=');
    const std::string_view name = pair.substr(0, equals);
    const auto& names = known_names();
    const auto found =
        std::find_if(names.begin(), names.end(), [&](const Names& n) { return n.role == name; });
    if (equals == std::string_view::npos || equals + 1 == pair.size() || found == names.end()) {
      mistake =
          "must be like ts=event_time,price=px,qty=3 with the names symbol, ts, price, qty, trade_id, "
          "is_buyer_maker, side, exchange, received_at, name; cannot read \"" +
          std::string(pair) + "\"";
      return std::nullopt;
    }
    columns[static_cast<Role>(found - names.begin())] = pair.substr(equals + 1);
  }
  return columns;
}

// ---- CSV

bool split_csv(std::string_view line, char delimiter, std::vector<std::string>& fields) {
  fields.clear();
  std::string current;
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted) {
      if (c != '"') {
        current += c;
      } else if (i + 1 < line.size() && line[i + 1] == '"') {
        current += '"';
        ++i;
      } else {
        quoted = false;
      }
    } else if (c == '"' && current.empty()) {
      quoted = true;
    } else if (c == delimiter) {
      fields.push_back(std::move(current));
      current.clear();
    } else {
      current += c;
    }
  }
  fields.push_back(std::move(current));
  return !quoted;
}

void CsvRows::choose_layout() {
  for (const auto& [role, column] : options_.columns) {
    const auto number = parse_integer(column);
    const auto named = std::find(fields_.begin(), fields_.end(), column);
    if (named != fields_.end()) {
      at_[static_cast<std::size_t>(role)] = static_cast<std::size_t>(named - fields_.begin());
      header_ = true;
    } else if (number && *number >= 1 && static_cast<std::size_t>(*number) <= fields_.size()) {
      at_[static_cast<std::size_t>(role)] = static_cast<std::size_t>(*number - 1);
    } else {
      throw std::runtime_error("the file has no column \"" + column + "\"");
    }
  }
  for (std::size_t role = 0; role < role_count; ++role) {
    std::optional<int> best;
    for (std::size_t i = 0; i < fields_.size(); ++i) {
      const auto fit = rank(role, fields_[i]);
      if (!fit || (best && *best <= *fit)) continue;
      best = fit;
      if (!options_.columns.contains(static_cast<Role>(role))) at_[role] = i;
      header_ = true;
    }
  }
  auto& ts = at_[static_cast<std::size_t>(Role::ts)];
  auto& price = at_[static_cast<std::size_t>(Role::price)];
  const bool dump = !header_ && options_.columns.empty() && (fields_.size() == 7 || fields_.size() == 8) &&
                    parse_integer(fields_[0]);
  if (dump) {
    // id, price, qty, quoteQty | first, last, time, isBuyerMaker, isBestMatch
    const std::size_t time = fields_.size() == 8 ? 5 : 4;
    at_[static_cast<std::size_t>(Role::id)] = 0;
    price = 1;
    at_[static_cast<std::size_t>(Role::qty)] = 2;
    ts = time;
    at_[static_cast<std::size_t>(Role::maker)] = time + 1;
  }
  if (!ts || !price)
    throw std::runtime_error(
        "cannot tell which columns are time and price; say so with --columns ts=...,price=...");
}

Decoded CsvRows::decode(std::string_view line, Timestamp received, std::vector<Tick>& out) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (!started_) {
    if (line.starts_with("\xef\xbb\xbf")) line.remove_prefix(3);
    std::ptrdiff_t most = 0;
    for (const char candidate : {',', ';', '\t'}) {
      const auto n = std::count(line.begin(), line.end(), candidate);
      if (n > most) delimiter_ = candidate;
      most = std::max(most, n);
    }
  }
  if (!split_csv(line, delimiter_, fields_)) return {Verdict::malformed, "a quote is left open"};
  if (!started_) {
    started_ = true;
    choose_layout();
    if (header_) return {Verdict::ignored, ""};
  }
  Texts texts;
  for (std::size_t role = 0; role < role_count; ++role) {
    if (!at_[role]) continue;
    if (*at_[role] >= fields_.size()) return {Verdict::malformed, "too few columns"};
    texts[role] = fields_[*at_[role]];
  }
  return assemble(texts, options_, received, out);
}

// ---- JSON

struct JsonRows::Scratch {
  simdjson::ondemand::parser parser;
  std::vector<char> text;
  std::string symbol;
};

JsonRows::JsonRows(RowOptions options)
    : options_(std::move(options)), scratch_(std::make_unique<Scratch>()) {}

JsonRows::~JsonRows() = default;

Decoded JsonRows::decode(std::string_view text, Timestamp received, std::vector<Tick>& out) {
  namespace json = simdjson::ondemand;
  auto& padded = scratch_->text;
  if (padded.size() < text.size() + simdjson::SIMDJSON_PADDING)
    padded.resize(text.size() * 2 + simdjson::SIMDJSON_PADDING);
  std::copy(text.begin(), text.end(), padded.begin());
  json::document document;
  json::object root;
  if (scratch_->parser.iterate(padded.data(), text.size(), padded.size()).get(document) ||
      document.get_object().get(root))
    return {Verdict::malformed, "not a JSON object"};

  Texts texts;
  std::array<int, role_count> ranks{};
  bool has_info = false;
  const auto taken = [&](std::string_view key) {  // what is told to be one thing is not guessed to be another
    return std::any_of(options_.columns.begin(), options_.columns.end(),
                       [&](const auto& column) { return column.second == key; });
  };
  const auto note = [&](std::string_view key, json::value& value, bool inner) {
    std::string_view scalar;
    bool read = false;
    for (std::size_t role = 0; role < role_count; ++role) {
      std::optional<int> fit;
      const auto told = options_.columns.find(static_cast<Role>(role));
      if (told == options_.columns.end())
        fit = taken(key) ? std::nullopt : rank(role, key);
      else if (told->second == key)
        fit = -1000;
      if (!fit) continue;
      if (inner) *fit -= 100;
      if (texts[role] && ranks[role] <= *fit) continue;
      if (!read) {
        json::json_type type{};
        if (value.type().get(type)) return;
        if (type == json::json_type::string) {
          if (value.get_string().get(scalar)) return;
        } else if (type == json::json_type::number || type == json::json_type::boolean) {
          scalar = value.raw_json_token();
          while (!scalar.empty() && std::isspace(static_cast<unsigned char>(scalar.back())))
            scalar.remove_suffix(1);
        } else {
          return;
        }
        read = true;
      }
      texts[role] = scalar;
      ranks[role] = *fit;
    }
  };
  for (auto field : root) {
    std::string_view key;
    json::value value;
    if (field.unescaped_key().get(key) || field.value().get(value))
      return {Verdict::malformed, "broken JSON"};
    json::object info;
    if (key == "info" && !value.get_object().get(info)) {
      has_info = true;
      for (auto inner : info) {
        if (inner.unescaped_key().get(key) || inner.value().get(value))
          return {Verdict::malformed, "broken JSON"};
        note(key, value, true);
      }
      continue;
    }
    note(key, value, false);
  }
  auto& symbol = texts[static_cast<std::size_t>(Role::symbol)];
  if (has_info && symbol) {  // ccxt's own notation "XRP/ETH" beside the exchange's raw object
    scratch_->symbol = *symbol;
    std::erase(scratch_->symbol, '/');
    symbol = scratch_->symbol;
  }
  return assemble(texts, options_, received, out);
}

// ---- documents

struct JsonItems::Scratch {
  simdjson::dom::parser parser;
  std::array<std::string, role_count> texts;
};

JsonItems::JsonItems(RowOptions options)
    : options_(std::move(options)), scratch_(std::make_unique<Scratch>()) {}

JsonItems::~JsonItems() = default;

namespace {

// A scalar as text; a double in its shortest form, which is the same double again.
std::optional<std::string> scalar_text(const simdjson::dom::element& value) {
  std::string_view text;
  std::int64_t whole = 0;
  double number = 0;
  bool flag = false;
  if (!value.get(text)) return std::string(text);
  if (!value.get(whole)) return std::to_string(whole);
  if (!value.get(flag)) return flag ? "true" : "false";
  if (value.get(number)) return std::nullopt;
  char digits[40];
  return std::string(digits, std::to_chars(digits, std::end(digits), number).ptr);
}

}  // namespace

Decoded JsonItems::decode(std::string_view text, Timestamp received, std::vector<Tick>& out) {
  namespace dom = simdjson::dom;
  dom::element root;
  dom::element items;
  if (scratch_->parser.parse(text.data(), text.size()).get(root)) return {Verdict::malformed, "not JSON"};
  if (root.at_pointer(options_.items).get(items))
    return {Verdict::malformed, "there is nothing at rows.items"};
  const std::size_t before = out.size();
  Decoded result{Verdict::ignored, ""};
  const auto take = [&](std::string_view key, const dom::element& item) {
    Texts texts;
    for (const auto& [role, path] : options_.columns) {
      auto& kept = scratch_->texts[static_cast<std::size_t>(role)];
      dom::element value;
      if (path == "@key") {
        kept = key;
      } else {
        const bool outer = path.starts_with('^');
        if ((outer ? root.at_pointer(path.substr(1)) : item.at_pointer(path)).get(value)) continue;
        auto found = scalar_text(value);
        if (!found) continue;
        kept = std::move(*found);
      }
      texts[static_cast<std::size_t>(role)] = kept;
    }
    const Decoded one = assemble(texts, options_, received, out);
    if (one.verdict == Verdict::tick) return;
    ++result.bad;
    result.reason = one.reason;
  };
  dom::array array;
  dom::object object;
  if (!items.get(array)) {
    for (const auto element : array) take("", element);
  } else if (!items.get(object)) {
    const bool members = std::all_of(object.begin(), object.end(),
                                     [](const auto& member) { return member.value.is_object(); });
    if (!members) take("", items);
    if (members)
      for (const auto member : object) take(member.key, member.value);
  } else {
    return {Verdict::malformed, "rows.items names no object and no array"};
  }
  if (out.size() > before) result.verdict = Verdict::tick;
  if (out.size() == before && result.bad > 0) result.verdict = Verdict::malformed;
  return result;
}

}  // namespace tick::ingest
