// Exact sums of float8: a fixed-point superaccumulator after Radford Neal's small one (64-bit limbs at 32-bit
// stride, carries deferred), kept in a sliding window of limbs because prices need only 3 to 5 of them.
// Promises: order, split and merge of the inputs change neither value() nor the encoded bytes; every addition
// is invertible, NaN, infinities and -0 included; value() is rounded once, half to even.
// Also home of LimbWindow and of the varints of the encodings, which decimal.hpp shares.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace tick {

// A contiguous run of limbs [base, base + capacity) of a positional number, zero outside. It starts inline,
// slides when the used limbs fit, and moves to the heap when they do not. Value semantics; not thread safe.
template <typename Limb, unsigned inline_limbs>
class LimbWindow {
 public:
  LimbWindow() noexcept = default;
  LimbWindow(const LimbWindow& other) { copy_from(other); }
  LimbWindow(LimbWindow&& other) noexcept { steal_from(other); }
  LimbWindow& operator=(const LimbWindow& other) {
    if (this != &other) *this = LimbWindow(other);
    return *this;
  }
  LimbWindow& operator=(LimbWindow&& other) noexcept {
    if (this != &other) {
      release();
      steal_from(other);
    }
    return *this;
  }
  ~LimbWindow() { release(); }

  int base() const { return base_; }
  int end() const { return base_ + static_cast<int>(capacity_); }
  unsigned capacity() const { return capacity_; }
  Limb* data() { return limbs_; }
  const Limb* data() const { return limbs_; }
  Limb& at(int index) { return limbs_[index - base_]; }

  void clear() { std::fill_n(limbs_, capacity_, Limb{0}); }

  // Makes every limb of [low, high] addressable; values are kept, positions in data() may change.
  void cover(int low, int high) {
    if (low >= base_ && high < end()) return;
    unsigned first = 0;
    unsigned last = capacity_;
    while (first < last && limbs_[first] == 0) ++first;
    while (last > first && limbs_[last - 1] == 0) --last;
    if (first < last) {
      low = std::min(low, base_ + static_cast<int>(first));
      high = std::max(high, base_ + static_cast<int>(last) - 1);
    }
    const unsigned used = static_cast<unsigned>(high - low) + 1;
    const unsigned capacity = used <= capacity_ ? capacity_ : std::max(2 * capacity_, used + used / 4 + 2);
    const int base = low - static_cast<int>((capacity - used) / 2);
    Limb* target = capacity == capacity_ ? limbs_ : new Limb[capacity];
    const unsigned count = last - first;
    const unsigned offset = count == 0 ? 0 : static_cast<unsigned>(base_ + static_cast<int>(first) - base);
    std::memmove(target + offset, limbs_ + first, count * sizeof(Limb));
    std::fill(target, target + offset, Limb{0});
    std::fill(target + offset + count, target + capacity, Limb{0});
    if (target != limbs_) {
      release();
      limbs_ = target;
      capacity_ = capacity;
    }
    base_ = base;
  }

 private:
  bool on_heap() const { return limbs_ != inline_; }
  void release() noexcept {
    if (on_heap()) delete[] limbs_;
  }
  void copy_from(const LimbWindow& other) {
    if (other.on_heap()) limbs_ = new Limb[other.capacity_];
    capacity_ = other.capacity_;
    base_ = other.base_;
    std::copy_n(other.limbs_, capacity_, limbs_);
  }
  // Expects released limbs; leaves `other` an empty inline window.
  void steal_from(LimbWindow& other) noexcept {
    capacity_ = other.capacity_;
    base_ = other.base_;
    if (other.on_heap()) {
      limbs_ = std::exchange(other.limbs_, other.inline_);
      other.capacity_ = inline_limbs;
    } else {
      limbs_ = inline_;
      std::copy_n(other.inline_, inline_limbs, inline_);
    }
    other.clear();
  }

  Limb* limbs_ = inline_;
  int32_t base_ = 0;
  uint32_t capacity_ = inline_limbs;
  Limb inline_[inline_limbs] = {};
};

// Adds to a count, or takes from it. Counts are modulo their word: one that is too large, which only bytes
// made by hand bring, is still gone again when it is taken back.
template <typename Count>
void add_count(Count& to, Count count, int direction = 1) {
  using Unsigned = std::make_unsigned_t<Count>;
  const auto n = static_cast<Unsigned>(count);
  to = static_cast<Count>(static_cast<Unsigned>(to) + (direction < 0 ? Unsigned{0} - n : n));
}

// Zigzag LEB128, minimal length. take_varint advances `bytes` and throws Error data_corrupted on truncated,
// oversized or non-minimal input.
void put_varint(std::string& out, int64_t value);
int64_t take_varint(std::span<const unsigned char>& bytes);

class ExactSum {
 public:
  ExactSum() noexcept = default;
  ExactSum(const ExactSum& other);
  ExactSum(ExactSum&&) noexcept = default;
  ExactSum& operator=(const ExactSum& other);
  ExactSum& operator=(ExactSum&&) noexcept = default;
  ~ExactSum() = default;

  // Adds one input.
  void add(double x) { accumulate<1>(x); }
  // Takes back one add(x).
  void subtract(double x) { accumulate<-1>(x); }

  // Adds x * x exactly: no product over- or underflows here, only value() may (see finite_overflow).
  // x = NaN counts as NaN, an infinity as +Infinity.
  void add_square(double x) { accumulate_square(x, 1); }
  // Takes back one add_square(x).
  void subtract_square(double x) { accumulate_square(x, -1); }

  // Adds, or takes back, all inputs of `other`, which may be *this.
  void merge(const ExactSum& other) { combine(other, 1); }
  void subtract(const ExactSum& other) { combine(other, -1); }
  void clear();

  // Number of inputs, those taken back subtracted.
  int64_t count() const {
    int64_t count = count_;
    add_count<int64_t>(count, pending_);
    return count;
  }
  // True if an input was NaN or infinite.
  bool has_special() const;

  // Returns the sum of the inputs, rounded once, as PostgreSQL's sum(float8) sees special values: NaN wins,
  // opposite infinities are NaN, only -0 inputs give -0. A finite sum above DBL_MAX is an infinity.
  double value() const;
  // True if all inputs are finite but their sum is not.
  bool finite_overflow() const;

  // Appends the canonical form: equal sums of equally many inputs give equal bytes.
  void encode(std::string& out) const;
  // Reads one encoded sum and advances `bytes`; throws Error data_corrupted.
  static ExactSum decode(std::span<const unsigned char>& bytes);
  // Returns decode(bytes).value() of the sums that nearly all are, finite and of at most four limbs, at a
  // fraction of its cost; of others, and of what is no sum, nothing.
  static std::optional<double> plain_value(std::span<const unsigned char> bytes);

  // Canonical text, e.g. `-2:[123,-456] n=7 nan=1 inf=2 -inf=1 -0=3`: the sum of limb * 2^(32 * (base + i)),
  // then the non-zero counts.
  std::string text() const;
  // Reads text(); throws Error invalid_argument.
  static ExactSum parse(std::string_view text);

  // Equal sums of equally many inputs of each kind.
  bool operator==(const ExactSum& other) const;

 private:
  friend double mean(int64_t n, const ExactSum& sum);
  friend double variance(int64_t n, const ExactSum& sum, const ExactSum& squares, bool sample);

  // Limb i weighs 2^(32 i). Doubles reach down to limb -34, their squares to -68 and up to 63.
  static constexpr int lowest_limb = -34;
  static constexpr unsigned position_bias = 13;  // exponent field -> bit position above limb -34
  static constexpr uint64_t hidden_bit = uint64_t{1} << 52;
  static constexpr uint64_t mantissa_mask = hidden_bit - 1;
  // A limb is at most 2^31 after carry() and takes less than 2^53 per addition: 512 stay below 2^63.
  static constexpr int32_t pending_limit = 512;

  struct Specials {
    int64_t nan = 0;
    int64_t infinity = 0;
    int64_t minus_infinity = 0;
    int64_t minus_zero = 0;
    bool operator==(const Specials&) const = default;
  };
  struct Digits;

  template <int direction>
  void accumulate(double x) {
    const auto bits = std::bit_cast<uint64_t>(x);
    const unsigned exponent = static_cast<unsigned>(bits >> 52) & 0x7ff;
    const unsigned position = exponent + position_bias;
    const unsigned slot =
        static_cast<unsigned>(static_cast<int>(position >> 5) + lowest_limb - limbs_.base());
    if (exponent - 1 >= 0x7fe || slot >= limbs_.capacity() - 1 || pending_ >= pending_limit) [[unlikely]] {
      add_slowly(x, direction);
      return;
    }
    ++pending_;
    if constexpr (direction < 0) add_count<int64_t>(count_, -2);
    const unsigned shift = position & 31;
    const uint64_t mantissa = (bits & mantissa_mask) | hidden_bit;
    const int64_t sign = (static_cast<int64_t>(bits) >> 63) ^ (direction < 0 ? -1 : 0);
    int64_t* const limb = limbs_.data() + slot;
    limb[0] += (static_cast<int64_t>((mantissa << shift) & 0xffffffff) ^ sign) - sign;
    limb[1] += (static_cast<int64_t>(mantissa >> (32 - shift)) ^ sign) - sign;
  }
  void accumulate_square(double x, int direction);
  void add_slowly(double x, int direction);
  void add_bits(unsigned __int128 mantissa, int position, bool negative);
  void combine(const ExactSum& other, int direction);
  void carry();
  Specials specials() const { return specials_ ? *specials_ : Specials{}; }
  Specials& make_specials();
  Digits digits() const;
  void assign(const Digits& digits);

  LimbWindow<int64_t, 6> limbs_;
  int64_t count_ = 0;
  int32_t pending_ = 0;  // additions since carry(); each also stands for one input beyond count_
  std::unique_ptr<Specials> specials_;
};

// Returns sum / n, the rounded sum divided as PostgreSQL's avg(float8) does; finite whenever the mean is.
// Throws Error invalid_argument unless n > 0.
double mean(int64_t n, const ExactSum& sum);

// Returns (n * squares - sum^2) / (n * (sample ? n - 1 : n)) computed exactly and rounded once; never
// negative. NaN if an input was NaN or infinite; +Infinity means overflow. Throws Error invalid_argument
// unless n > (sample ? 1 : 0).
double variance(int64_t n, const ExactSum& sum, const ExactSum& squares, bool sample);

}  // namespace tick
