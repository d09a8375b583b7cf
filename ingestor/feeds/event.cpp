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
