// The slow paths of ExactSum, its rounding and its encodings. Between two carries a limb is any 64-bit
// number; everything that leaves this file goes through balanced digits in [-2^31, 2^31), which are unique
// for a sum.
#include "exact_sum.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <vector>

#include "error.hpp"

namespace tick {
namespace {

constexpr int first_digit = -68;  // lowest limb of the square of the least subnormal
constexpr int last_digit = 66;    // highest limb of 2^63 squares of DBL_MAX
constexpr int max_digits = 144;   // the range above and room for sums of sums

[[noreturn]] void throw_corrupted() {
  throw Error(Error::Code::data_corrupted, "corrupted exact sum");
}

// Splits one balanced digit off a limb; `carry` goes to the next limb.
int32_t take_digit(int64_t limb, int64_t& carry) {
  const int64_t value = limb + carry;
  carry = (value + (int64_t{1} << 31)) >> 32;
  return static_cast<int32_t>(value - carry * (int64_t{1} << 32));
}

// A natural number, 32-bit limbs, least first, times 2^(32 * base). Trimmed at the top.
struct Natural {
  std::vector<uint32_t> limbs;
  int base = 0;

  void trim() {
    while (!limbs.empty() && limbs.back() == 0) limbs.pop_back();
  }
};

// Returns the number rounded to double, half to even. `more` says that the number is a little larger than its
// limbs; it then must have at least 55 significant bits above its least limb.
double round_to_double(const Natural& number, bool more) {
  const auto& limbs = number.limbs;
  if (limbs.empty()) return 0.0;
  const int size = static_cast<int>(limbs.size());
  const int bottom = 32 * number.base;
  const int top = bottom + 32 * size - 1 - std::countl_zero(limbs.back());
  if (top > 1023) return std::numeric_limits<double>::infinity();
  const int last = std::max(top - 52, -1074);  // the least bit a double of this size has
  if (last <= bottom) {
    const uint64_t all = limbs[0] | (size > 1 ? static_cast<uint64_t>(limbs[1]) << 32 : 0);
    return std::ldexp(static_cast<double>(all), bottom);
  }
  const auto limb_at = [&](int i) { return i < size ? limbs[i] : 0; };
  const int from = (last - bottom) / 32;
  unsigned __int128 window = limb_at(from + 2);
  window = window << 32 | limb_at(from + 1);
  window = window << 32 | limb_at(from);
  auto mantissa = static_cast<uint64_t>(window >> ((last - bottom) % 32));

  const int guard = last - bottom - 1;
  const uint32_t guard_limb = limb_at(guard / 32);
  if (guard_limb >> (guard % 32) & 1) {
    bool above_half = more || (guard_limb & ((uint32_t{1} << (guard % 32)) - 1)) != 0;
    for (int i = 0; !above_half && i < guard / 32 && i < size; ++i) above_half = limbs[i] != 0;
    if (above_half || (mantissa & 1)) ++mantissa;
  }
  return std::ldexp(static_cast<double>(mantissa), last);
}

Natural product(const Natural& a, const Natural& b) {
  Natural result{std::vector<uint32_t>(a.limbs.size() + b.limbs.size()), a.base + b.base};
  for (size_t i = 0; i < a.limbs.size(); ++i) {
    uint64_t carry = 0;
    for (size_t j = 0; j < b.limbs.size(); ++j) {
      carry += static_cast<uint64_t>(a.limbs[i]) * b.limbs[j] + result.limbs[i + j];
      result.limbs[i + j] = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
    result.limbs[i + b.limbs.size()] = static_cast<uint32_t>(carry);
  }
  result.trim();
  return result;
}

Natural natural(int64_t n) {
  Natural result{{static_cast<uint32_t>(n), static_cast<uint32_t>(n >> 32)}};
  result.trim();
  return result;
}

// Returns max(a - b, 0).
Natural difference(Natural a, Natural b) {
  const int base = std::min(a.base, b.base);
  for (Natural* x : {&a, &b}) {
    x->limbs.insert(x->limbs.begin(), x->base - base, 0);
    x->base = base;
  }
  if (b.limbs.size() > a.limbs.size()) return {};
  int64_t borrow = 0;
  for (size_t i = 0; i < a.limbs.size(); ++i) {
    borrow += a.limbs[i];
    if (i < b.limbs.size()) borrow -= b.limbs[i];
    a.limbs[i] = static_cast<uint32_t>(borrow);
    borrow >>= 32;
  }
  if (borrow != 0) return {};
  a.trim();
  return a;
}

// Returns number / (a * b), rounded once. The divisors are below 2^63.
double quotient(Natural number, uint64_t a, uint64_t b) {
  // 8 limbs leave a quotient of at least 98 bits; of a longer number it only matters whether the rest is
  // zero.
  constexpr int width = 8;
  const int excess = static_cast<int>(number.limbs.size()) - width;
  bool more = false;
  if (excess > 0) {
    for (int i = 0; i < excess; ++i) more |= number.limbs[i] != 0;
    number.limbs.erase(number.limbs.begin(), number.limbs.begin() + excess);
  } else {
    number.limbs.insert(number.limbs.begin(), -excess, 0);
  }
  number.base += excess;
  for (const uint64_t divisor : {a, b}) {
    uint64_t remainder = 0;
    for (size_t i = number.limbs.size(); i-- > 0;) {
      const auto dividend = static_cast<unsigned __int128>(remainder) << 32 | number.limbs[i];
      number.limbs[i] = static_cast<uint32_t>(dividend / divisor);
      remainder = static_cast<uint64_t>(dividend % divisor);
    }
    more |= remainder != 0;
  }
  number.trim();
  return round_to_double(number, more);
}

template <typename Integer>
Integer take_number(std::string_view& text, const std::string_view whole) {
  Integer value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) {
    throw Error(Error::Code::invalid_argument, "invalid exact sum: \"" + std::string(whole) + "\"");
  }
  text.remove_prefix(end - text.data());
  return value;
}

bool take_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace

void put_varint(std::string& out, int64_t value) {
  auto rest = static_cast<uint64_t>(value) << 1 ^ static_cast<uint64_t>(value >> 63);
  for (; rest >= 0x80; rest >>= 7) out.push_back(static_cast<char>(rest | 0x80));
  out.push_back(static_cast<char>(rest));
}

int64_t take_varint(std::span<const unsigned char>& bytes) {
  uint64_t value = 0;
  for (unsigned i = 0; i < bytes.size() && i < 10; ++i) {
    const unsigned char byte = bytes[i];
    value |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
    if (byte >= 0x80) continue;
    if ((byte == 0 && i > 0) || (i == 9 && byte > 1)) break;
    bytes = bytes.subspan(i + 1);
    return static_cast<int64_t>(value >> 1 ^ (0 - (value & 1)));
  }
  throw Error(Error::Code::data_corrupted, "corrupted variable-length integer");
}

// The sum in balanced digits, trimmed at both ends; zero has none and base 0.
struct ExactSum::Digits {
  int base = 0;
  int size = 0;
  std::array<int32_t, max_digits> digit;

  void push(int index, int32_t value) {
    if (size == 0) {
      if (value == 0) return;
      base = index;
    }
    if (size < max_digits) {
      digit[size++] = value;
    } else if (value != 0) {
      throw Error(Error::Code::numeric_out_of_range, "exact sum out of range");
    }
  }
  void trim() {
    while (size > 0 && digit[size - 1] == 0) --size;
    if (size == 0) base = 0;
  }
  bool negative() const { return size > 0 && digit[size - 1] < 0; }
  Natural magnitude() const {
    Natural result{std::vector<uint32_t>(size), base};
    const int64_t sign = negative() ? -1 : 1;
    int64_t carry = 0;
    for (int i = 0; i < size; ++i) {
      carry += sign * digit[i];
      result.limbs[i] = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
    result.trim();
    return result;
  }
};

ExactSum::ExactSum(const ExactSum& other)
    : limbs_(other.limbs_),
      count_(other.count_),
      pending_(other.pending_),
      specials_(other.specials_ ? std::make_unique<Specials>(*other.specials_) : nullptr) {}

ExactSum& ExactSum::operator=(const ExactSum& other) {
  if (this != &other) *this = ExactSum(other);
  return *this;
}

ExactSum::Specials& ExactSum::make_specials() {
  if (!specials_) specials_ = std::make_unique<Specials>();
  return *specials_;
}

void ExactSum::carry() {
  int64_t carry = 0;
  for (unsigned i = 0; i < limbs_.capacity(); ++i) {
    int64_t& limb = limbs_.data()[i];
    limb = take_digit(limb, carry);
  }
  if (carry != 0) {
    const int above = limbs_.end();
    limbs_.cover(above, above);
    limbs_.at(above) += carry;
  }
  count_ = count();
  pending_ = 0;
}

void ExactSum::add_bits(unsigned __int128 mantissa, int position, bool negative) {
  const auto high_half = static_cast<uint64_t>(mantissa >> 64);
  const int bits = high_half != 0 ? 128 - std::countl_zero(high_half)
                                  : 64 - std::countl_zero(static_cast<uint64_t>(mantissa));
  const int low = position >> 5;
  // The fast paths write 2 limbs of a double and 4 of a square, zero or not.
  limbs_.cover(low, std::max((position + bits - 1) >> 5, low + (high_half != 0 ? 3 : 1)));
  if (pending_ >= pending_limit) carry();
  ++pending_;
  add_count<int64_t>(count_, -1);
  const unsigned shift = position & 31;
  int64_t* limb = &limbs_.at(low);
  auto part = static_cast<int64_t>(static_cast<uint32_t>(mantissa << shift));
  mantissa >>= 32 - shift;
  *limb += negative ? -part : part;
  for (; mantissa != 0; mantissa >>= 32) {
    part = static_cast<int64_t>(static_cast<uint32_t>(mantissa));
    *++limb += negative ? -part : part;
  }
}

void ExactSum::add_slowly(double x, int direction) {
  const auto bits = std::bit_cast<uint64_t>(x);
  const int exponent = static_cast<int>(bits >> 52) & 0x7ff;
  const bool negative = bits >> 63;
  if (exponent == 0x7ff) {
    Specials& specials = make_specials();
    add_count<int64_t>(std::isnan(x) ? specials.nan
                       : negative    ? specials.minus_infinity
                                     : specials.infinity,
                       direction);
  } else if (x == 0) {
    if (negative) add_count<int64_t>(make_specials().minus_zero, direction);
  } else {
    const uint64_t mantissa = (bits & mantissa_mask) | (exponent == 0 ? 0 : hidden_bit);
    add_bits(mantissa, std::max(exponent, 1) - 1075, negative != (direction < 0));
  }
  add_count<int64_t>(count_, direction);
}

void ExactSum::accumulate_square(double x, int direction) {
  const auto bits = std::bit_cast<uint64_t>(x);
  const int exponent = static_cast<int>(bits >> 52) & 0x7ff;
  add_count<int64_t>(count_, direction);
  if (exponent == 0x7ff) {
    add_count<int64_t>(std::isnan(x) ? make_specials().nan : make_specials().infinity, direction);
    return;
  }
  if (x == 0) return;
  const uint64_t mantissa = (bits & mantissa_mask) | (exponent == 0 ? 0 : hidden_bit);
  auto square = static_cast<unsigned __int128>(mantissa) * mantissa;
  const int position = 2 * (std::max(exponent, 1) - 1075);
  const auto slot = static_cast<unsigned>((position >> 5) - limbs_.base());
  // Four limbs hold any square: 32, 32, 32 and at most 41 bits.
  if (slot >= limbs_.capacity() || limbs_.capacity() - slot < 4 || pending_ >= pending_limit) [[unlikely]] {
    add_bits(square, position, direction < 0);
    return;
  }
  ++pending_;
  add_count<int64_t>(count_, -1);
  const unsigned shift = position & 31;
  int64_t* const limb = limbs_.data() + slot;
  limb[0] += direction * static_cast<int64_t>(static_cast<uint32_t>(static_cast<uint64_t>(square) << shift));
  square >>= 32 - shift;
  const auto middle = static_cast<uint64_t>(square);
  limb[1] += direction * static_cast<int64_t>(middle & 0xffffffff);
  limb[2] += direction * static_cast<int64_t>(middle >> 32);
  limb[3] += direction * static_cast<int64_t>(square >> 64);
}

void ExactSum::combine(const ExactSum& other, int direction) {
  // Everything is read before the first write: `other` may be *this.
  const Digits theirs = other.digits();
  const int64_t their_count = other.count();
  const Specials their_specials = other.specials();
  if (theirs.size > 0) {
    limbs_.cover(theirs.base, theirs.base + theirs.size - 1);
    if (pending_ >= pending_limit) carry();
    ++pending_;
    add_count<int64_t>(count_, -1);
    int64_t* limb = &limbs_.at(theirs.base);
    for (int i = 0; i < theirs.size; ++i) limb[i] += direction * int64_t{theirs.digit[i]};
  }
  add_count(count_, their_count, direction);
  if (their_specials != Specials{}) {
    Specials& specials = make_specials();
    add_count(specials.nan, their_specials.nan, direction);
    add_count(specials.infinity, their_specials.infinity, direction);
    add_count(specials.minus_infinity, their_specials.minus_infinity, direction);
    add_count(specials.minus_zero, their_specials.minus_zero, direction);
  }
}

void ExactSum::clear() {
  limbs_.clear();
  count_ = 0;
  pending_ = 0;
  specials_.reset();
}

ExactSum::Digits ExactSum::digits() const {
  Digits result;
  int64_t carry = 0;
  int index = limbs_.base();
  for (unsigned i = 0; i < limbs_.capacity(); ++i) result.push(index++, take_digit(limbs_.data()[i], carry));
  while (carry != 0) result.push(index++, take_digit(0, carry));
  result.trim();
  return result;
}

void ExactSum::assign(const Digits& digits) {
  if (digits.size == 0) return;
  limbs_.cover(digits.base, digits.base + digits.size - 1);
  std::copy_n(digits.digit.begin(), digits.size, &limbs_.at(digits.base));
}

bool ExactSum::has_special() const {
  return specials_ && (specials_->nan != 0 || specials_->infinity != 0 || specials_->minus_infinity != 0);
}

double ExactSum::value() const {
  const Specials kinds = specials();
  if (kinds.nan != 0 || (kinds.infinity != 0 && kinds.minus_infinity != 0)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  if (kinds.infinity != 0) return std::numeric_limits<double>::infinity();
  if (kinds.minus_infinity != 0) return -std::numeric_limits<double>::infinity();
  if (kinds.minus_zero != 0 && kinds.minus_zero == count()) return -0.0;
  const Digits sum = digits();
  const double magnitude = round_to_double(sum.magnitude(), false);
  return sum.negative() ? -magnitude : magnitude;
}

bool ExactSum::finite_overflow() const {
  return !has_special() && std::isinf(value());
}

void ExactSum::encode(std::string& out) const {
  const Specials kinds = specials();
  const std::array<int64_t, 4> counts{kinds.nan, kinds.infinity, kinds.minus_infinity, kinds.minus_zero};
  unsigned char flags = 0;
  for (unsigned i = 0; i < counts.size(); ++i) flags |= (counts[i] != 0) << i;
  out.push_back(static_cast<char>(flags));
  put_varint(out, count());
  for (const int64_t count : counts) {
    if (count != 0) put_varint(out, count);
  }
  const Digits sum = digits();
  out.push_back(static_cast<char>(sum.size));
  if (sum.size == 0) return;
  out.push_back(static_cast<char>(sum.base));
  for (int i = 0; i < sum.size; ++i) {
    const auto digit = static_cast<uint32_t>(sum.digit[i]);
    for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(digit >> shift));
  }
}

ExactSum ExactSum::decode(std::span<const unsigned char>& bytes) {
  auto rest = bytes;
  const auto take_byte = [&rest] {
    if (rest.empty()) throw_corrupted();
    const unsigned char byte = rest[0];
    rest = rest.subspan(1);
    return byte;
  };
  ExactSum result;
  const unsigned char flags = take_byte();
  if (flags > 15) throw_corrupted();
  result.count_ = take_varint(rest);
  std::array<int64_t, 4> counts{};
  for (unsigned i = 0; i < counts.size(); ++i) {
    if (!(flags >> i & 1)) continue;
    counts[i] = take_varint(rest);
    if (counts[i] == 0) throw_corrupted();
  }
  if (flags != 0) result.make_specials() = {counts[0], counts[1], counts[2], counts[3]};

  Digits sum;
  const int size = take_byte();
  if (size > 0) {
    const int base = static_cast<signed char>(take_byte());
    if (base < first_digit || base + size - 1 > last_digit || rest.size() < 4 * static_cast<size_t>(size)) {
      throw_corrupted();
    }
    for (int i = 0; i < size; ++i) {
      uint32_t digit = 0;
      for (int shift = 0; shift < 32; shift += 8) digit |= static_cast<uint32_t>(take_byte()) << shift;
      if (digit == 0 && (i == 0 || i == size - 1)) throw_corrupted();
      sum.push(base + i, static_cast<int32_t>(digit));
    }
  }
  result.assign(sum);
  bytes = rest;
  return result;
}

std::optional<double> ExactSum::plain_value(std::span<const unsigned char> bytes) {
  // No specials; a count; four bytes a digit.
  if (bytes.empty() || bytes[0] != 0) return std::nullopt;
  size_t at = 1;
  while (at < bytes.size() && at < 10 && bytes[at] >= 0x80) ++at;
  if (at + 2 >= bytes.size() || (bytes[at] == 0 && at > 1) || (at == 10 && bytes[at] > 1))
    return std::nullopt;
  ++at;
  const int size = bytes[at];
  const int base = static_cast<signed char>(bytes[at + 1]);
  at += 2;
  // With these, no result is subnormal or infinite: a conversion rounds once, and the rest is exact.
  if (size < 1 || size > 4 || base < -30 || base > 27 || bytes.size() != at + 4 * static_cast<size_t>(size))
    return std::nullopt;
  __int128 sum = 0;
  for (int i = size - 1; i >= 0; --i) {
    const unsigned char* from = bytes.data() + at + 4 * static_cast<size_t>(i);
    const auto digit = static_cast<int32_t>(from[0] | from[1] << 8 | from[2] << 16 | uint32_t{from[3]} << 24);
    if (digit == 0 && (i == 0 || i == size - 1)) return std::nullopt;
    if (digit == std::numeric_limits<int32_t>::min() && i == 3) return std::nullopt;  // -2^127, or below
    sum = sum * (__int128{1} << 32) + digit;
  }
  const auto scale = std::bit_cast<double>(static_cast<uint64_t>(1023 + 32 * base) << 52);
  return static_cast<double>(sum) * scale;
}

std::string ExactSum::text() const {
  const Digits sum = digits();
  std::string out = std::to_string(sum.base) + ":[";
  for (int i = 0; i < sum.size; ++i) {
    if (i > 0) out += ',';
    out += std::to_string(sum.digit[i]);
  }
  out += ']';
  const Specials kinds = specials();
  const auto put = [&out](const char* name, int64_t count) {
    if (count != 0) out += name + std::to_string(count);
  };
  put(" n=", count());
  put(" nan=", kinds.nan);
  put(" inf=", kinds.infinity);
  put(" -inf=", kinds.minus_infinity);
  put(" -0=", kinds.minus_zero);
  return out;
}

ExactSum ExactSum::parse(std::string_view text) {
  const std::string_view whole = text;
  ExactSum result;
  Digits sum;
  const int base = take_number<int>(text, whole);
  bool valid = base >= first_digit && base <= last_digit && take_prefix(text, ":[");
  for (int i = 0; valid && !take_prefix(text, "]"); ++i) {
    valid = base + i <= last_digit && (i == 0 || take_prefix(text, ","));
    if (valid) sum.push(base + i, take_number<int32_t>(text, whole));
  }
  result.assign(sum);
  Specials kinds;
  if (take_prefix(text, " n=")) result.count_ = take_number<int64_t>(text, whole);
  if (take_prefix(text, " nan=")) kinds.nan = take_number<int64_t>(text, whole);
  if (take_prefix(text, " inf=")) kinds.infinity = take_number<int64_t>(text, whole);
  if (take_prefix(text, " -inf=")) kinds.minus_infinity = take_number<int64_t>(text, whole);
  if (take_prefix(text, " -0=")) kinds.minus_zero = take_number<int64_t>(text, whole);
  if (kinds != Specials{}) result.make_specials() = kinds;
  // Only the canonical text is accepted, so that one sum has one text.
  if (!valid || !text.empty() || result.text() != whole) {
    throw Error(Error::Code::invalid_argument, "invalid exact sum: \"" + std::string(whole) + "\"");
  }
  return result;
}

bool ExactSum::operator==(const ExactSum& other) const {
  if (count() != other.count() || specials() != other.specials()) return false;
  const Digits a = digits();
  const Digits b = other.digits();
  return a.base == b.base && a.size == b.size && std::equal(&a.digit[0], &a.digit[a.size], &b.digit[0]);
}

double mean(int64_t n, const ExactSum& sum) {
  if (n <= 0) throw Error(Error::Code::invalid_argument, "mean of no input");
  const double total = sum.value();
  if (!std::isinf(total) || sum.has_special()) return total / static_cast<double>(n);
  const auto digits = sum.digits();
  const double magnitude = quotient(digits.magnitude(), n, 1);
  return digits.negative() ? -magnitude : magnitude;
}

double variance(int64_t n, const ExactSum& sum, const ExactSum& squares, bool sample) {
  if (n <= (sample ? 1 : 0)) throw Error(Error::Code::invalid_argument, "variance of too few inputs");
  if (sum.has_special() || squares.has_special()) return std::numeric_limits<double>::quiet_NaN();
  const auto square_digits = squares.digits();
  if (square_digits.negative()) return 0.0;
  const Natural total = sum.digits().magnitude();
  Natural numerator = difference(product(square_digits.magnitude(), natural(n)), product(total, total));
  if (numerator.limbs.empty()) return 0.0;
  return quotient(std::move(numerator), n, sample ? n - 1 : n);
}

}  // namespace tick
