// Yahoo Finance's streamer: a protobuf message per price in base64, bare (version 1) or in a JSON envelope
// (version 2). Nobody documents it; the fields are those that yfinance reads, and a real message. There are
// no ids and no sizes of trades: the day's volume so far, where there is one, stands for the id, so that two
// trades of one millisecond are two and stand in their order; what it grew by since the last price is the
// quantity.
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <map>

#include "event.hpp"

namespace tick::ingest {

namespace {

constexpr auto subscribe_again = std::chrono::seconds(15);  // as its own web site does
constexpr std::size_t symbols_per_request = 200;

// Nothing when it is no base64. Padding may be missing.
bool decode_base64(std::string_view text, std::string& out) {
  static constexpr auto values = [] {
    std::array<std::int8_t, 256> table{};
    for (auto& value : table) value = -1;
    constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (std::size_t i = 0; i < digits.size(); ++i)
      table[static_cast<unsigned char>(digits[i])] = static_cast<std::int8_t>(i);
    return table;
  }();
  out.clear();
  while (text.ends_with('=')) text.remove_suffix(1);
  std::uint32_t bits = 0;
  int held = 0;
  for (const char c : text) {
    const auto value = values[static_cast<unsigned char>(c)];
    if (value < 0) return false;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    held += 6;
    if (held < 8) continue;
    held -= 8;
    out += static_cast<char>(bits >> held & 0xff);
  }
  return held < 6;
}

// Walks the fields of one flat protobuf message.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : rest_(bytes) {}

  enum class Wire { number, fixed64, text, fixed32 };
  // False at the end, or when the message is broken; good() tells which.
  bool next() {
    std::uint64_t tag = 0;
    if (rest_.empty() || !good_ || !varint(tag)) return false;
    field_ = tag >> 3;
    switch (tag & 7) {
      case 0:
        wire_ = Wire::number;
        return varint(number_);
      case 1:
        wire_ = Wire::fixed64;
        return take(8);
      case 2: {
        wire_ = Wire::text;
        std::uint64_t size = 0;
        return varint(size) && take(size);
      }
      case 5:
        wire_ = Wire::fixed32;
        return take(4);
      default:
        return good_ = false;
    }
  }
  bool good() const { return good_; }
  std::uint64_t field() const { return field_; }
  bool is(std::uint64_t field, Wire wire) const { return field_ == field && wire_ == wire; }
  std::string_view bytes() const { return bytes_; }
  std::int64_t zigzag() const {
    return static_cast<std::int64_t>(number_ >> 1) ^ -static_cast<std::int64_t>(number_ & 1);
  }
  float real() const {
    std::uint32_t bits = 0;
    for (int i = 3; i >= 0; --i)
      bits = bits << 8 | static_cast<unsigned char>(bytes_[static_cast<std::size_t>(i)]);
    return std::bit_cast<float>(bits);
  }

 private:
  bool varint(std::uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return good_ = false;
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return good_ = false;
  }
  bool take(std::uint64_t size) {
    if (size > rest_.size()) return good_ = false;
    bytes_ = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return true;
  }

  std::string_view rest_;
  std::string_view bytes_;
  std::uint64_t field_ = 0;
  std::uint64_t number_ = 0;
  Wire wire_ = Wire::number;
  bool good_ = true;
};

// The decimal number that was meant: 94745.08, not the 94745.078125 that a float holds.
std::optional<double> meant(float value) {
  if (!std::isfinite(value)) return std::nullopt;
  char text[64];
  const auto end = std::to_chars(text, std::end(text), value).ptr;
  return parse_decimal({text, static_cast<std::size_t>(end - text)});
}

class YahooFeed final : public Feed {
 public:
  Decoded decode(std::string_view message, Timestamp received, std::vector<Tick>& out) override {
    std::string_view encoded = message;
    while (!encoded.empty() && (encoded.back() == '\n' || encoded.back() == '\r')) encoded.remove_suffix(1);
    if (encoded.starts_with('{')) {
      json::object root;
      if (const auto other = message_.open(encoded, root)) return *other;
      std::optional<std::string_view> type;
      std::optional<std::string_view> inner;
      const bool whole = each_member(root, [&](std::string_view key, json::value& value) {
        if (key == "type") read(type, value.get_string());
        if (key == "message") read(inner, value.get_string());
        return true;
      });
      if (!whole || !message_.complete()) return {Verdict::malformed, "broken JSON"};
      if (!type) return {Verdict::unknown, ""};
      if (type != "pricing") return {Verdict::ignored, ""};
      if (!inner) return {Verdict::malformed, "no message in the envelope"};
      encoded = *inner;
    }
    if (encoded.empty() || !decode_base64(encoded, bytes_)) return {Verdict::malformed, "not base64"};
    return price(received, out);
  }

  std::optional<Heartbeat> heartbeat(const std::vector<std::string>& symbols) const override {
    if (symbols.empty()) return std::nullopt;
    return Heartbeat{request(symbols), subscribe_again};
  }

  std::vector<std::string> subscribe(const std::vector<std::string>& symbols, Stream,
                                     bool add) const override {
    return subscription_requests(symbols, symbols_per_request,
                                 add ? R"({"subscribe":[)" : R"({"unsubscribe":[)", "]}");
  }

 private:
  Decoded price(Timestamp received, std::vector<Tick>& out) {
    std::optional<std::string_view> id;
    std::optional<float> price;
    std::optional<std::int64_t> time;
    std::optional<std::int64_t> volume;
    Fields fields(bytes_);
    while (fields.next()) {
      if (fields.is(1, Fields::Wire::text)) id = fields.bytes();
      if (fields.is(2, Fields::Wire::fixed32)) price = fields.real();
      if (fields.is(3, Fields::Wire::number)) time = fields.zigzag();
      if (fields.is(9, Fields::Wire::number)) volume = fields.zigzag();
    }
    if (!fields.good()) return {Verdict::malformed, "broken protobuf"};
    Tick tick;
    if (!id || !tick.symbol.assign(*id) || !printable(*id)) return {Verdict::malformed, "no usable symbol"};
    const auto number = price ? meant(*price) : std::nullopt;
    if (!number || *number <= 0) return {Verdict::malformed, "impossible price"};
    const auto at = time ? epoch_time(*time) : std::nullopt;
    if (!at) return {Verdict::malformed, "impossible trade time"};
    if (received != Timestamp{} && *at > received + std::chrono::days(1))
      return {Verdict::malformed, "trade time is more than a day ahead"};
    tick.ts = *at;
    tick.received = received;
    tick.price = *number;
    if (volume && *volume > 0) {
      tick.id = *volume;
      tick.has_id = true;
      const auto [last, first] = volumes_.try_emplace(std::string(*id), *volume);
      if (!first && *volume > last->second) {
        tick.qty = static_cast<double>(*volume - last->second);
        tick.has_qty = true;
      }
      // A little less came out of order; much less is another day.
      if (*volume > last->second || *volume < last->second / 2) last->second = *volume;
      if (volumes_.size() > most_symbols) volumes_.clear();
    }
    out.push_back(tick);
    return {Verdict::tick, ""};
  }

  static bool printable(std::string_view id) {
    for (const char c : id)
      if (c <= ' ' || c > '~') return false;
    return true;
  }

  static std::string request(const std::vector<std::string>& symbols) {
    return subscription_requests(symbols, symbols.size(), R"({"subscribe":[)", "]}").front();
  }

  static constexpr std::size_t most_symbols = 100'000;

  Message message_;
  std::string bytes_;
  std::map<std::string, std::int64_t, std::less<>> volumes_;
};

}  // namespace

std::unique_ptr<Feed> make_yahoo_feed(Stream) {
  return std::make_unique<YahooFeed>();
}

}  // namespace tick::ingest
