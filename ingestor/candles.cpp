// Layouts of candles, and what makes a row one; see candles.hpp.
#include "candles.hpp"

#include <algorithm>
#include <cctype>

#include "number.hpp"
#include "rows.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t time_column = Candle::values, end_column = Candle::values + 1;
constexpr std::size_t dump_columns = 12;  // the last of them means nothing

struct Names {
  std::size_t column;
  std::vector<std::string_view> names;
};

const std::vector<Names>& known_names() {
  static const std::vector<Names> names = {
      {time_column, {"open_time", "ts", "timestamp", "time", "date", "datetime"}},
      {Candle::open, {"open"}},
      {Candle::high, {"high"}},
      {Candle::low, {"low"}},
      {Candle::close, {"close"}},
      {Candle::volume, {"volume"}},
      {end_column, {"close_time"}},
      {Candle::quote_volume, {"quote_volume", "quote_asset_volume"}},
      {Candle::trades, {"count", "trades", "number_of_trades"}},
  };
  return names;
}

std::string folded(std::string_view name) {
  std::string out;
  for (const char c : name)
    out += c == ' ' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

std::string candle_size(std::string_view text) {
  const auto letters = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto count = parse_integer(text.substr(0, letters));
  if (!count || *count < 1 || *count > 1000) return "";
  constexpr std::pair<std::string_view, const char*> units[] = {
      {"s", "second"}, {"m", "minute"}, {"h", "hour"}, {"d", "day"}, {"w", "week"}, {"mo", "month"}};
  for (const auto& [unit, word] : units)
    if (text.substr(letters) == unit) return std::to_string(*count) + " " + word;
  return "";
}

CandleFile candle_file(const std::string& path) {
  std::string_view name(path);
  name.remove_prefix(name.rfind('/') == std::string_view::npos ? 0 : name.rfind('/') + 1);
  name = name.substr(0, name.find('.'));
  const auto first = name.find('-');
  if (first == std::string_view::npos || first == 0) return {};
  const std::string_view rest = name.substr(first + 1);
  const std::string size = candle_size(rest.substr(0, rest.find('-')));
  if (size.empty()) return {};
  return {std::string(name.substr(0, first)), size};
}

// An element of an array of arrays comes without its outer bracket.
bool CandleRows::split(std::string_view text) {
  if (!array_) return split_csv(text, ',', fields_);
  line_ = text;
  std::erase_if(line_,
                [](unsigned char c) { return c == '"' || c == '[' || c == ']' || std::isspace(c) != 0; });
  return split_csv(line_, ',', fields_);
}

bool CandleRows::recognises(Framing framing, std::string_view first) {
  if (framing != Framing::csv && framing != Framing::array) return false;
  array_ = framing == Framing::array;
  if (first.starts_with("\xef\xbb\xbf")) first.remove_prefix(3);
  if (first.ends_with('\r')) first.remove_suffix(1);
  if ((array_ && first.starts_with('{')) || !split(first)) return false;
  at_ = {};
  for (std::size_t i = 0; i < fields_.size(); ++i)
    for (const auto& [column, names] : known_names())
      if (!at_[column] && std::find(names.begin(), names.end(), folded(fields_[i])) != names.end())
        at_[column] = i;
  header_ = true;
  for (const std::size_t column : {std::size_t{Candle::open}, std::size_t{Candle::high},
                                   std::size_t{Candle::low}, std::size_t{Candle::close}, time_column})
    header_ = header_ && at_[column];
  if (header_) return true;
  if (fields_.size() != dump_columns || !parse_integer(fields_[0])) return false;
  constexpr std::size_t order[] = {time_column, Candle::open,         Candle::high,
                                   Candle::low, Candle::close,        Candle::volume,
                                   end_column,  Candle::quote_volume, Candle::trades};
  at_ = {};
  for (std::size_t i = 0; i < std::size(order); ++i) at_[order[i]] = i;
  return true;
}

Decoded CandleRows::decode(std::string_view text, Candle& candle) {
  if (text.ends_with('\r')) text.remove_suffix(1);
  if (header_) {
    header_ = false;
    return {Verdict::ignored, ""};
  }
  if (!split(text)) return {Verdict::malformed, "a quote is left open"};
  const auto field = [&](std::size_t column) -> std::string_view {
    return at_[column] && *at_[column] < fields_.size() ? std::string_view(fields_[*at_[column]]) : "";
  };
  const auto ts = parse_time(field(time_column));
  if (!ts) return {Verdict::malformed, "impossible time"};
  const bool zoned = tells_zone(field(time_column));
  if (!zoned && !offset_)
    return {Verdict::malformed, "a time without zone: say which it is with --tz UTC or --tz +02:00"};
  candle.ts = zoned ? *ts : *ts - *offset_;
  const auto end = parse_time(field(end_column));
  candle.size =
      end && *end > *ts ? std::chrono::ceil<std::chrono::seconds>(*end - *ts) : std::chrono::seconds(0);
  std::array<double, Candle::values> value{};
  for (std::size_t i = 0; i < Candle::values; ++i) {
    candle.digits[i] = field(i);
    if (candle.digits[i].empty() && i >= Candle::volume) continue;
    const auto number = parse_decimal(candle.digits[i]);
    if (!number || *number < 0 || (i < Candle::volume && *number == 0))
      return {Verdict::malformed, i < Candle::volume ? "impossible price" : "impossible volume or count"};
    if (i == Candle::trades && !parse_integer(candle.digits[i]))
      return {Verdict::malformed, "impossible count"};
    value[i] = *number;
  }
  const auto [least, most] = std::minmax({value[Candle::open], value[Candle::close]});
  if (value[Candle::low] > least || value[Candle::high] < most)
    return {Verdict::malformed, "open and close are not between low and high"};
  return {Verdict::tick, ""};
}

}  // namespace tick::ingest
