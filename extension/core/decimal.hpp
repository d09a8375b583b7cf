// PostgreSQL's numeric without PostgreSQL: reads and writes the on-disk bytes (NumericData behind the varlena
// header, native byte order), orders them, and sums them exactly. Malformed bytes throw Error data_corrupted;
// nothing is ever read out of bounds. "Bytes" means those bytes everywhere below.
// DecimalSum promises what ExactSum does: order, split and merge change neither value nor encoded bytes, and
// every addition is invertible, the display scale included.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "exact_sum.hpp"

namespace tick {

using int128 = __int128;

// Orders as PostgreSQL does: negative, 0 or positive. NaN is the greatest and equal to itself, then
// +Infinity.
int compare(std::string_view a, std::string_view b);

// Returns the bytes of the same value at its smallest display scale: equal values give equal bytes.
std::string canonical(std::string_view bytes);

// Returns the bytes of an integer.
std::string numeric_from_int128(int128 value);

// Returns the text PostgreSQL prints.
std::string to_text(std::string_view bytes);
// Returns the bytes of a plain decimal text (no exponent), `NaN` or `[-]Infinity`; throws Error
// invalid_argument.
std::string from_text(std::string_view text);

class DecimalSum {
 public:
  DecimalSum() noexcept = default;
  DecimalSum(const DecimalSum& other);
  DecimalSum(DecimalSum&&) noexcept = default;
  DecimalSum& operator=(const DecimalSum& other);
  DecimalSum& operator=(DecimalSum&&) noexcept = default;
  ~DecimalSum() = default;

  // Adds one input, or takes it back.
  void add(std::string_view bytes) { add_bytes(bytes, 1); }
  void subtract(std::string_view bytes) { add_bytes(bytes, -1); }
  void add_int(int128 value) { add_integer(value, 1); }
  void subtract_int(int128 value) { add_integer(value, -1); }

  // Adds the exact square of one input (display scale doubled, as numeric's variance does), or takes it back.
  void add_square(std::string_view bytes) { add_square_bytes(bytes, 1); }
  void subtract_square(std::string_view bytes) { add_square_bytes(bytes, -1); }
  void add_square_int(int64_t value) { add_integer(int128{value} * value, 1); }
  void subtract_square_int(int64_t value) { add_integer(int128{value} * value, -1); }

  // Adds, or takes back, all inputs of `other`, which may be *this.
  void merge(const DecimalSum& other) { combine(other, 1); }
  void subtract(const DecimalSum& other) { combine(other, -1); }
  void clear();

  // Number of inputs, those taken back subtracted.
  int64_t count() const;
  // True if more NaN, or more infinities of a sign, were taken back than added.
  bool lost_special() const;

  // Returns the bytes PostgreSQL's sum() gives for the inputs: the largest display scale among them; NaN
  // wins, opposite infinities are NaN. Zero inputs give 0. Throws Error numeric_out_of_range beyond numeric's
  // format.
  std::string numeric() const;

  // Appends the canonical form: equal sums of equally scaled inputs give equal bytes.
  void encode(std::string& out) const;
  // Reads one encoded sum and advances `bytes`; throws Error data_corrupted.
  static DecimalSum decode(std::span<const unsigned char>& bytes);

  bool operator==(const DecimalSum& other) const;

 private:
  using ScaleCount = std::pair<int32_t, int64_t>;
  // Limb i weighs 10000^i, is at most 5000 after carry() and takes at most 9999 per addition.
  static constexpr int32_t pending_limit = 200'000;

  struct Rare {
    int64_t nan = 0;
    int64_t infinity = 0;
    int64_t minus_infinity = 0;
    std::vector<ScaleCount> scales;  // inputs by display scale, those of scale_ excluded
  };
  struct Digits;

  void add_bytes(std::string_view bytes, int direction);
  void add_square_bytes(std::string_view bytes, int direction);
  void add_integer(int128 value, int direction);
  void combine(const DecimalSum& other, int direction);
  void before_addition(int low, int high);
  void count_scale(int32_t scale, int64_t times);
  void carry();
  Rare& make_rare();
  std::vector<ScaleCount> scales() const;
  Digits digits() const;

  LimbWindow<int32_t, 12> limbs_;
  int32_t pending_ = 0;
  int32_t scale_ = 0;
  int64_t scale_count_ = 0;
  std::unique_ptr<Rare> rare_;
};

}  // namespace tick
