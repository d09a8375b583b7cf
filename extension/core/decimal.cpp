// Parsing and building of numeric's bytes, and DecimalSum on top of them. As in exact_sum.cpp, everything
// that leaves goes through balanced digits, here base 10000 in [-5000, 5000), which are unique for a sum.
#include "decimal.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "error.hpp"

namespace tick {
namespace {

using uint128 = unsigned __int128;

// The header word of numeric.c, PostgreSQL 9.1 and later; infinities since 14.
constexpr unsigned header_kind = 0xc000;
constexpr unsigned header_negative = 0x4000;
constexpr unsigned header_short = 0x8000;
constexpr unsigned header_special = 0xc000;
constexpr unsigned header_extended_kind = 0xf000;
constexpr unsigned header_nan = 0xc000;
constexpr unsigned header_infinity = 0xd000;
constexpr unsigned header_minus_infinity = 0xf000;
constexpr unsigned long_scale_mask = 0x3fff;
constexpr unsigned short_negative = 0x2000;
constexpr unsigned short_scale_mask = 0x1f80;
constexpr int short_scale_shift = 7;
constexpr int short_scale_max = 63;
constexpr unsigned short_weight_sign = 0x0040;
constexpr unsigned short_weight_mask = 0x003f;
constexpr int short_weight_min = -64;
constexpr int short_weight_max = 63;

constexpr int digit_base = 10'000;
constexpr int digit_width = 4;
constexpr int scale_max = 0x3fff;
// Weights of limbs: those of numeric (the lowest leniently), of its squares, and of sums of those.
constexpr int lowest_weight = -8'192;
constexpr int lowest_limb = 2 * lowest_weight;
constexpr int highest_limb = 2 * 32'767 + 16;

[[noreturn]] void throw_corrupted(const char* what) {
  throw Error(Error::Code::data_corrupted, std::string("corrupted ") + what);
}

[[noreturn]] void throw_invalid(std::string_view text) {
  throw Error(Error::Code::invalid_argument, "invalid numeric: \"" + std::string(text) + "\"");
}

// A parsed value; its rank orders the kinds.
struct Value {
  enum Kind { minus_infinity, finite, infinity, nan };

  Kind kind = finite;
  bool negative = false;
  int scale = 0;
  int weight = 0;  // of the first digit; 0 for zero
  int size = 0;    // digits without leading and trailing zeros
  const char* digits = nullptr;

  int operator[](int i) const {
    int16_t digit;
    std::memcpy(&digit, digits + 2 * i, sizeof digit);
    return digit;
  }
  int sign() const { return size == 0 ? 0 : negative ? -1 : 1; }
  int low() const { return weight - size + 1; }
};

Value parse(std::string_view bytes) {
  if (bytes.size() < 2 || bytes.size() % 2 != 0 || bytes.size() > (1 << 20)) throw_corrupted("numeric");
  uint16_t header;
  std::memcpy(&header, bytes.data(), sizeof header);
  Value value;
  if ((header & header_kind) == header_special) {
    switch (header & header_extended_kind) {
      case header_nan:
        value.kind = Value::nan;
        return value;
      case header_infinity:
        value.kind = Value::infinity;
        return value;
      case header_minus_infinity:
        value.kind = Value::minus_infinity;
        return value;
      default:
        throw_corrupted("numeric");
    }
  }
  size_t skip = sizeof header;
  if ((header & header_kind) == header_short) {
    value.negative = header & short_negative;
    value.scale = (header & short_scale_mask) >> short_scale_shift;
    value.weight = header & short_weight_mask;
    if (header & short_weight_sign) value.weight += short_weight_min;
  } else {
    int16_t weight;
    if (bytes.size() < sizeof header + sizeof weight) throw_corrupted("numeric");
    std::memcpy(&weight, bytes.data() + sizeof header, sizeof weight);
    skip += sizeof weight;
    value.negative = (header & header_kind) == header_negative;
    value.scale = header & long_scale_mask;
    value.weight = weight;
  }
  value.digits = bytes.data() + skip;
  value.size = static_cast<int>((bytes.size() - skip) / 2);
  for (int i = 0; i < value.size; ++i) {
    if (value[i] < 0 || value[i] >= digit_base) throw_corrupted("numeric");
  }
  while (value.size > 0 && value[0] == 0) {
    value.digits += 2;
    --value.size;
    --value.weight;
  }
  while (value.size > 0 && value[value.size - 1] == 0) --value.size;
  if (value.size == 0) {
    value.negative = false;
    value.weight = 0;
  }
  if (value.low() < lowest_weight) throw_corrupted("numeric");
  return value;
}

void append_word(std::string& out, unsigned word) {
  const auto value = static_cast<uint16_t>(word);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string special_bytes(unsigned header) {
  std::string out;
  append_word(out, header);
  return out;
}

// Builds the bytes from digits, least first, the least one of weight `low`; zeros at both ends are dropped.
std::string build(bool negative, std::span<const int32_t> digits, int low, int scale) {
  while (!digits.empty() && digits.back() == 0) digits = digits.first(digits.size() - 1);
  while (!digits.empty() && digits.front() == 0) {
    digits = digits.subspan(1);
    ++low;
  }
  const int weight = digits.empty() ? 0 : low + static_cast<int>(digits.size()) - 1;
  if (digits.empty()) negative = false;
  if (weight > std::numeric_limits<int16_t>::max() || weight < std::numeric_limits<int16_t>::min() ||
      scale > scale_max) {
    throw Error(Error::Code::numeric_out_of_range, "value overflows numeric format");
  }
  std::string out;
  out.reserve(4 + 2 * digits.size());
  if (scale <= short_scale_max && weight >= short_weight_min && weight <= short_weight_max) {
    append_word(out, header_short | (negative ? short_negative : 0) |
                         static_cast<unsigned>(scale) << short_scale_shift |
                         (weight < 0 ? short_weight_sign : 0) |
                         (static_cast<unsigned>(weight) & short_weight_mask));
  } else {
    append_word(out, (negative ? header_negative : 0) | static_cast<unsigned>(scale));
    append_word(out, static_cast<unsigned>(weight));
  }
  for (size_t i = digits.size(); i-- > 0;) append_word(out, static_cast<unsigned>(digits[i]));
  return out;
}

// Decimal digits after the point that a number needs whose least non-zero digit is `last`, of weight `low`.
int smallest_scale(int last, int low) {
  if (low >= 0) return 0;
  int scale = -low * digit_width;
  for (; last % 10 == 0; last /= 10) --scale;
  return scale;
}

// The base-10000 digits of an integer, least first; returns their number.
using IntegerDigits = std::array<int32_t, 12>;
int split(uint128 magnitude, IntegerDigits& digits) {
  constexpr uint64_t chunk = 10'000'000'000'000'000;
  int size = 0;
  while (magnitude > std::numeric_limits<uint64_t>::max()) {
    auto rest = static_cast<uint64_t>(magnitude % chunk);
    magnitude /= chunk;
    for (int i = 0; i < 4; ++i, rest /= digit_base) digits[size++] = static_cast<int32_t>(rest % digit_base);
  }
  for (auto rest = static_cast<uint64_t>(magnitude); rest != 0; rest /= digit_base) {
    digits[size++] = static_cast<int32_t>(rest % digit_base);
  }
  return size;
}

uint128 magnitude_of(int128 value) {
  return value < 0 ? 0 - static_cast<uint128>(value) : static_cast<uint128>(value);
}

// Splits one balanced digit off a limb; `carry` goes to the next limb.
int32_t take_digit(int64_t limb, int64_t& carry) {
  const int64_t shifted = limb + carry + digit_base / 2;
  carry = shifted / digit_base - (shifted % digit_base < 0 ? 1 : 0);
  return static_cast<int32_t>(shifted - carry * digit_base - digit_base / 2);
}

}  // namespace

int compare(std::string_view a, std::string_view b) {
  const Value x = parse(a);
  const Value y = parse(b);
  if (x.kind != y.kind) return x.kind < y.kind ? -1 : 1;
  if (x.kind != Value::finite) return 0;
  if (x.sign() != y.sign()) return x.sign() < y.sign() ? -1 : 1;
  const int sign = x.sign();
  if (x.weight != y.weight) return x.weight < y.weight ? -sign : sign;
  const int common = std::min(x.size, y.size);
  for (int i = 0; i < common; ++i) {
    if (x[i] != y[i]) return x[i] < y[i] ? -sign : sign;
  }
  return x.size == y.size ? 0 : x.size < y.size ? -sign : sign;
}

std::string canonical(std::string_view bytes) {
  const Value value = parse(bytes);
  switch (value.kind) {
    case Value::nan:
      return special_bytes(header_nan);
    case Value::infinity:
      return special_bytes(header_infinity);
    case Value::minus_infinity:
      return special_bytes(header_minus_infinity);
    case Value::finite:
      break;
  }
  std::vector<int32_t> digits(value.size);
  for (int i = 0; i < value.size; ++i) digits[value.size - 1 - i] = value[i];
  return build(value.negative, digits, value.low(),
               digits.empty() ? 0 : smallest_scale(digits.front(), value.low()));
}

std::string numeric_from_int128(int128 value) {
  IntegerDigits digits;
  const int size = split(magnitude_of(value), digits);
  return build(value < 0, {digits.data(), static_cast<size_t>(size)}, 0, 0);
}

std::string to_text(std::string_view bytes) {
  const Value value = parse(bytes);
  switch (value.kind) {
    case Value::nan:
      return "NaN";
    case Value::infinity:
      return "Infinity";
    case Value::minus_infinity:
      return "-Infinity";
    case Value::finite:
      break;
  }
  const auto append_digit = [&value](std::string& out, int weight) {
    const int i = value.weight - weight;
    std::string digit = std::to_string(i >= 0 && i < value.size ? value[i] : 0);
    out.append(digit_width - digit.size(), '0').append(digit);
  };
  std::string whole;
  for (int weight = std::max(value.weight, 0); weight >= 0; --weight) append_digit(whole, weight);
  whole.erase(0, std::min(whole.find_first_not_of('0'), whole.size() - 1));
  std::string fraction;
  for (int weight = -1; static_cast<int>(fraction.size()) < value.scale; --weight)
    append_digit(fraction, weight);
  fraction.resize(value.scale);
  return (value.negative ? "-" : "") + whole + (fraction.empty() ? "" : ".") + fraction;
}

std::string from_text(std::string_view text) {
  if (text == "NaN") return special_bytes(header_nan);
  if (text == "Infinity") return special_bytes(header_infinity);
  if (text == "-Infinity") return special_bytes(header_minus_infinity);
  std::string_view rest = text;
  const bool negative = rest.starts_with('-');
  if (negative || rest.starts_with('+')) rest.remove_prefix(1);
  const size_t point = std::min(rest.find('.'), rest.size());
  std::string whole(rest.substr(0, point));
  std::string fraction(rest.substr(std::min(point + 1, rest.size())));
  if (whole.empty() && fraction.empty()) throw_invalid(text);
  const int scale = static_cast<int>(fraction.size());
  whole.insert(0, (digit_width - whole.size() % digit_width) % digit_width, '0');
  fraction.append((digit_width - fraction.size() % digit_width) % digit_width, '0');
  const int low = -static_cast<int>(fraction.size() / digit_width);
  const std::string all = whole + fraction;
  std::vector<int32_t> digits(all.size() / digit_width);
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i] < '0' || all[i] > '9') throw_invalid(text);
    int32_t& digit = digits[digits.size() - 1 - i / digit_width];
    digit = digit * 10 + (all[i] - '0');
  }
  return build(negative, digits, low, scale);
}

// The sum in balanced digits, trimmed at both ends; zero has none and base 0.
struct DecimalSum::Digits {
  int base = 0;
  std::vector<int32_t> digit;

  bool operator==(const Digits&) const = default;
};

DecimalSum::DecimalSum(const DecimalSum& other)
    : limbs_(other.limbs_),
      pending_(other.pending_),
      scale_(other.scale_),
      scale_count_(other.scale_count_),
      rare_(other.rare_ ? std::make_unique<Rare>(*other.rare_) : nullptr) {}

DecimalSum& DecimalSum::operator=(const DecimalSum& other) {
  if (this != &other) *this = DecimalSum(other);
  return *this;
}

DecimalSum::Rare& DecimalSum::make_rare() {
  if (!rare_) rare_ = std::make_unique<Rare>();
  return *rare_;
}

void DecimalSum::carry() {
  int64_t carry = 0;
  for (unsigned i = 0; i < limbs_.capacity(); ++i) {
    int32_t& limb = limbs_.data()[i];
    limb = take_digit(limb, carry);
  }
  while (carry != 0) {
    const int above = limbs_.end();
    limbs_.cover(above, above);
    limbs_.at(above) = take_digit(0, carry);
  }
  pending_ = 0;
}

void DecimalSum::before_addition(int low, int high) {
  limbs_.cover(low, high);
  if (pending_ >= pending_limit) {
    carry();
    limbs_.cover(low, high);
  }
  ++pending_;
}

void DecimalSum::count_scale(int32_t scale, int64_t times) {
  if (scale == scale_) {
    add_count(scale_count_, times);
    return;
  }
  if (scale_count_ == 0 && (!rare_ || rare_->scales.empty())) {
    scale_ = scale;
    scale_count_ = times;
    return;
  }
  auto& scales = make_rare().scales;
  const auto same =
      std::find_if(scales.begin(), scales.end(), [&](auto& entry) { return entry.first == scale; });
  if (same != scales.end()) {
    add_count(same->second, times);
  } else {
    scales.emplace_back(scale, times);
  }
}

void DecimalSum::add_bytes(std::string_view bytes, int direction) {
  const Value value = parse(bytes);
  switch (value.kind) {
    case Value::nan:
      add_count<int64_t>(make_rare().nan, direction);
      return;
    case Value::infinity:
      add_count<int64_t>(make_rare().infinity, direction);
      return;
    case Value::minus_infinity:
      add_count<int64_t>(make_rare().minus_infinity, direction);
      return;
    case Value::finite:
      break;
  }
  count_scale(value.scale, direction);
  if (value.size == 0) return;
  before_addition(value.low(), value.weight);
  const int sign = value.negative ? -direction : direction;
  int32_t* limb = &limbs_.at(value.weight);
  for (int i = 0; i < value.size; ++i) *limb-- += sign * value[i];
}

void DecimalSum::add_square_bytes(std::string_view bytes, int direction) {
  const Value value = parse(bytes);
  if (value.kind != Value::finite) {
    add_count<int64_t>(value.kind == Value::nan ? make_rare().nan : make_rare().infinity, direction);
    return;
  }
  count_scale(2 * value.scale, direction);
  if (value.size == 0) return;
  std::vector<int64_t> square(2 * value.size);
  for (int i = 0; i < value.size; ++i) {
    for (int j = 0; j < value.size; ++j) square[i + j + 1] += value[i] * value[j];
  }
  const int high = 2 * value.weight + 1;
  before_addition(high - 2 * value.size + 1, high);
  int32_t* limb = &limbs_.at(high - 2 * value.size + 1);
  int64_t carry = 0;
  for (int i = 2 * value.size; i-- > 0;) {
    carry += square[i];
    *limb++ += direction * static_cast<int32_t>(carry % digit_base);
    carry /= digit_base;
  }
}

void DecimalSum::add_integer(int128 value, int direction) {
  count_scale(0, direction);
  if (value == 0) return;
  IntegerDigits digits;
  const int size = split(magnitude_of(value), digits);
  before_addition(0, size - 1);
  const int sign = value < 0 ? -direction : direction;
  int32_t* limb = &limbs_.at(0);
  for (int i = 0; i < size; ++i) *limb++ += sign * digits[i];
}

void DecimalSum::combine(const DecimalSum& other, int direction) {
  // Everything is read before the first write: `other` may be *this.
  const Digits theirs = other.digits();
  const auto their_scales = other.scales();
  if (other.rare_) {
    const int64_t nan = other.rare_->nan;
    const int64_t infinity = other.rare_->infinity;
    const int64_t minus_infinity = other.rare_->minus_infinity;
    if (nan != 0 || infinity != 0 || minus_infinity != 0) {
      Rare& rare = make_rare();
      add_count(rare.nan, nan, direction);
      add_count(rare.infinity, infinity, direction);
      add_count(rare.minus_infinity, minus_infinity, direction);
    }
  }
  for (const auto& [scale, times] : their_scales) {
    int64_t signed_times = 0;
    add_count(signed_times, times, direction);
    count_scale(scale, signed_times);
  }
  if (theirs.digit.empty()) return;
  before_addition(theirs.base, theirs.base + static_cast<int>(theirs.digit.size()) - 1);
  int32_t* limb = &limbs_.at(theirs.base);
  for (const int32_t digit : theirs.digit) *limb++ += direction * digit;
}

void DecimalSum::clear() {
  limbs_.clear();
  pending_ = 0;
  scale_count_ = 0;
  rare_.reset();
}

int64_t DecimalSum::count() const {
  int64_t total = scale_count_;
  if (rare_) {
    for (const int64_t count : {rare_->nan, rare_->infinity, rare_->minus_infinity}) add_count(total, count);
    for (const auto& entry : rare_->scales) add_count(total, entry.second);
  }
  return total;
}

bool DecimalSum::lost_special() const {
  return rare_ && (rare_->nan < 0 || rare_->infinity < 0 || rare_->minus_infinity < 0);
}

// The inputs by display scale, ascending, none with count 0.
std::vector<DecimalSum::ScaleCount> DecimalSum::scales() const {
  std::vector<ScaleCount> result;
  if (rare_) result = rare_->scales;
  result.emplace_back(scale_, scale_count_);
  std::erase_if(result, [](const ScaleCount& entry) { return entry.second == 0; });
  std::sort(result.begin(), result.end());
  return result;
}

DecimalSum::Digits DecimalSum::digits() const {
  Digits result;
  int64_t carry = 0;
  int index = limbs_.base();
  const auto push = [&](int32_t digit) {
    if (digit != 0 && result.digit.empty()) result.base = index;
    if (digit != 0 || !result.digit.empty()) result.digit.push_back(digit);
    ++index;
  };
  for (unsigned i = 0; i < limbs_.capacity(); ++i) push(take_digit(limbs_.data()[i], carry));
  while (carry != 0) push(take_digit(0, carry));
  while (!result.digit.empty() && result.digit.back() == 0) result.digit.pop_back();
  return result;
}

std::string DecimalSum::numeric() const {
  if (rare_) {
    if (rare_->nan != 0 || (rare_->infinity != 0 && rare_->minus_infinity != 0))
      return special_bytes(header_nan);
    if (rare_->infinity != 0) return special_bytes(header_infinity);
    if (rare_->minus_infinity != 0) return special_bytes(header_minus_infinity);
  }
  Digits sum = digits();
  const bool negative = !sum.digit.empty() && sum.digit.back() < 0;
  int32_t carry = 0;
  for (int32_t& digit : sum.digit) {
    digit = (negative ? -digit : digit) + carry;
    carry = digit < 0 ? -1 : 0;
    digit -= carry * digit_base;
  }
  const auto by_scale = scales();
  int scale = by_scale.empty() ? 0 : by_scale.back().first;
  // Inputs taken back that were never added leave counts that say nothing; no digit may be hidden then
  // either.
  if (!sum.digit.empty()) scale = std::max(scale, smallest_scale(sum.digit.front(), sum.base));
  return build(negative, sum.digit, sum.base, scale);
}

void DecimalSum::encode(std::string& out) const {
  const std::array<int64_t, 3> counts{rare_ ? rare_->nan : 0, rare_ ? rare_->infinity : 0,
                                      rare_ ? rare_->minus_infinity : 0};
  unsigned char flags = 0;
  for (unsigned i = 0; i < counts.size(); ++i) flags |= (counts[i] != 0) << i;
  out.push_back(static_cast<char>(flags));
  for (const int64_t count : counts) {
    if (count != 0) put_varint(out, count);
  }
  const auto by_scale = scales();
  put_varint(out, static_cast<int64_t>(by_scale.size()));
  for (const auto& [scale, times] : by_scale) {
    put_varint(out, scale);
    put_varint(out, times);
  }
  const Digits sum = digits();
  put_varint(out, static_cast<int64_t>(sum.digit.size()));
  if (sum.digit.empty()) return;
  put_varint(out, sum.base);
  for (const int32_t digit : sum.digit) {
    out.push_back(static_cast<char>(digit));
    out.push_back(static_cast<char>(digit >> 8));
  }
}

DecimalSum DecimalSum::decode(std::span<const unsigned char>& bytes) {
  const auto require = [](bool condition) {
    if (!condition) throw_corrupted("decimal sum");
  };
  auto rest = bytes;
  DecimalSum result;
  require(!rest.empty() && rest[0] < 8);
  const unsigned char flags = rest[0];
  rest = rest.subspan(1);
  std::array<int64_t, 3> counts{};
  for (unsigned i = 0; i < counts.size(); ++i) {
    if (!(flags >> i & 1)) continue;
    counts[i] = take_varint(rest);
    require(counts[i] != 0);
  }
  if (flags != 0) {
    result.make_rare().nan = counts[0];
    result.make_rare().infinity = counts[1];
    result.make_rare().minus_infinity = counts[2];
  }
  int64_t last_scale = -1;
  for (int64_t left = take_varint(rest); left != 0; --left) {
    const int64_t scale = take_varint(rest);
    const int64_t times = take_varint(rest);
    require(left > 0 && scale > last_scale && scale <= 2 * scale_max && times != 0);
    last_scale = scale;
    result.count_scale(static_cast<int32_t>(scale), times);
  }
  const int64_t size = take_varint(rest);
  if (size != 0) {
    const int64_t base = take_varint(rest);
    require(size > 0 && size <= highest_limb - lowest_limb && base >= lowest_limb &&
            base <= highest_limb - size + 1 && rest.size() >= 2 * static_cast<size_t>(size));
    result.before_addition(static_cast<int>(base), static_cast<int>(base + size - 1));
    int32_t* limb = &result.limbs_.at(static_cast<int>(base));
    for (int64_t i = 0; i < size; ++i) {
      const auto digit = static_cast<int16_t>(rest[2 * i] | rest[2 * i + 1] << 8);
      require(digit >= -digit_base / 2 && digit < digit_base / 2);
      require(digit != 0 || (i != 0 && i != size - 1));
      limb[i] = digit;
    }
    rest = rest.subspan(2 * size);
  }
  bytes = rest;
  return result;
}

bool DecimalSum::operator==(const DecimalSum& other) const {
  const auto special_counts = [](const DecimalSum& sum) {
    return sum.rare_ ? std::array<int64_t, 3>{sum.rare_->nan, sum.rare_->infinity, sum.rare_->minus_infinity}
                     : std::array<int64_t, 3>{};
  };
  return special_counts(*this) == special_counts(other) && scales() == other.scales() &&
         digits() == other.digits();
}

}  // namespace tick
