// Parsing and validation common to all exchanges; see event.hpp.
#include "event.hpp"

#include <algorithm>

namespace tick::ingest {

const char* append_tick(const Event& event, Timestamp received, std::vector<Tick>& out) {
  Tick tick;
  if (!event.symbol || !tick.symbol.assign(*event.symbol)) return "no usable symbol";
  if (!event.price || !event.qty) return "price or quantity is missing";
  const auto price = parse_decimal(*event.price);
  const auto qty = parse_decimal(*event.qty);
  if (!price || *price <= 0) return "impossible price";
  if (!qty || *qty <= 0) return "impossible quantity";
  if (!event.id || *event.id < 0) return "trade id is missing";
  if (!event.time) return "impossible trade time";
  if (received != Timestamp{} && *event.time > received + std::chrono::days(1))
    return "trade time is more than a day ahead";
  if (!event.maker) return "the side is missing";
  tick.ts = *event.time;
  tick.received = received;
  tick.price = *price;
  tick.qty = *qty;
  tick.has_qty = true;
  tick.id = *event.id;
  tick.has_id = true;
  tick.maker = *event.maker;
  out.push_back(tick);
  return nullptr;
}

std::optional<std::string_view> digits_of(json::value& value) {
  json::json_type type{};
  if (value.type().get(type)) return std::nullopt;
  std::string_view text;
  if (type == json::json_type::string) {
    if (value.get_string().get(text)) return std::nullopt;
    return text;
  }
  if (type != json::json_type::number) return std::nullopt;
  text = value.raw_json_token();
  const auto end = text.find_last_not_of(" \t\r\n");
  return text.substr(0, end == std::string_view::npos ? 0 : end + 1);
}

std::optional<std::int64_t> whole_of(json::value& value) {
  const auto digits = digits_of(value);
  return digits ? parse_integer(*digits) : std::nullopt;
}

std::optional<Timestamp> epoch_of(json::value& value) {
  const auto number = whole_of(value);
  return number ? epoch_time(*number) : std::nullopt;
}

std::optional<Maker> maker_when_maker(json::value& side) {
  std::optional<std::string_view> text;
  read(text, side.get_string());
  if (text == "buy" || text == "BUY" || text == "Buy") return Maker::buyer;
  if (text == "sell" || text == "SELL" || text == "Sell") return Maker::seller;
  return std::nullopt;
}

std::optional<Maker> maker_when_taker(json::value& side) {
  const auto maker = maker_when_maker(side);
  if (!maker) return std::nullopt;
  return *maker == Maker::buyer ? Maker::seller : Maker::buyer;
}

Decoded Harvest::done() {
  if (out_.size() == before_) {
    if (bad_ > 0) return {Verdict::malformed, wrong_};
    return {seen_ ? Verdict::ignored : Verdict::malformed, seen_ ? "" : "no trades"};
  }
  sort_by_id(out_, before_);
  return {Verdict::tick, wrong_, bad_};
}

Decoded Harvest::done_history() {
  const Decoded all = done();
  if (all.verdict == Verdict::ignored) return {Verdict::tick, ""};
  return all.bad == 0 ? all : give_up(Verdict::malformed, all.reason);
}

void sort_by_id(std::vector<Tick>& ticks, std::size_t from) {
  std::stable_sort(ticks.begin() + static_cast<std::ptrdiff_t>(from), ticks.end(),
                   [](const Tick& a, const Tick& b) { return a.id < b.id; });
}

std::optional<Decoded> Message::parse(std::string_view text, json::json_type& type) {
  if (text.empty()) return Decoded{Verdict::malformed, "empty message"};
  if (scratch_.size() < text.size() + simdjson::SIMDJSON_PADDING)
    scratch_.resize(text.size() * 2 + simdjson::SIMDJSON_PADDING);
  std::copy(text.begin(), text.end(), scratch_.begin());
  if (parser_.iterate(scratch_.data(), text.size(), scratch_.size()).get(document_) ||
      document_.type().get(type))
    return Decoded{Verdict::malformed, "not JSON"};
  return std::nullopt;
}

std::optional<Decoded> Message::open(std::string_view text, json::object& root) {
  json::json_type type{};
  if (const auto wrong = parse(text, type)) return wrong;
  if (type == json::json_type::array) return Decoded{Verdict::unknown, ""};
  if (document_.get_object().get(root)) return Decoded{Verdict::malformed, "not a JSON object"};
  return std::nullopt;
}

std::optional<Decoded> Message::open(std::string_view text, json::array& root) {
  json::json_type type{};
  if (const auto wrong = parse(text, type)) return wrong;
  if (document_.get_array().get(root)) return Decoded{Verdict::refused, "not a JSON array"};
  return std::nullopt;
}

bool Message::complete() {
  const char* rest = nullptr;
  return document_.current_location().get(rest) != simdjson::SUCCESS;
}

}  // namespace tick::ingest
