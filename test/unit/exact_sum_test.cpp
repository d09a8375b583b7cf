// ExactSum against a plain wide two's complement integer: values, order independence, inverses and encodings.
#include "core/exact_sum.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/error.hpp"

namespace {

using tick::Error;
using tick::ExactSum;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double quiet_nan = std::numeric_limits<double>::quiet_NaN();
constexpr double max_double = std::numeric_limits<double>::max();
constexpr double min_double = std::numeric_limits<double>::denorm_min();

// A 4480-bit two's complement integer in units of 2^-2176: bit by bit, and obviously right.
class Wide {
 public:
  void add(double x, bool negative = false) { add_product(x, 1.0, negative); }

  // Adds x * y, or its negative.
  void add_product(double x, double y, bool negative = false) {
    int ex = 0;
    int ey = 0;
    const auto mx = static_cast<int64_t>(std::ldexp(std::frexp(x, &ex), 53));
    const auto my = static_cast<int64_t>(std::ldexp(std::frexp(y, &ey), 53));
    __int128 product = static_cast<__int128>(mx) * my;
    negative ^= product < 0;
    if (product < 0) product = -product;
    for (int bit = 0; bit < 107; ++bit) {
      if (product >> bit & 1) add_bit(ex + ey - 106 + bit + 2176, negative);
    }
  }

  void add(const Wide& other, bool negative) {
    uint64_t carry = negative;
    for (size_t i = 0; i < limbs_.size(); ++i) {
      carry += static_cast<uint64_t>(limbs_[i]) + (negative ? ~other.limbs_[i] : other.limbs_[i]);
      limbs_[i] = static_cast<uint32_t>(carry);
      carry >>= 32;
    }
  }

  Wide times(uint32_t factor) const {
    Wide result;
    for (int bit = 31; bit >= 0; --bit) {
      result.add(Wide(result), false);
      if (factor >> bit & 1) result.add(*this, false);
    }
    return result;
  }

  int sign() const {
    if (limbs_.back() >> 31) return -1;
    return std::any_of(limbs_.begin(), limbs_.end(), [](uint32_t limb) { return limb != 0; });
  }

 private:
  void add_bit(int position, bool negative) {
    ASSERT_GE(position, 0);
    uint64_t carry = uint64_t{1} << (position % 32);
    for (size_t i = position / 32; carry != 0 && i < limbs_.size(); ++i) {
      const uint64_t sum = negative ? limbs_[i] - carry : limbs_[i] + carry;
      limbs_[i] = static_cast<uint32_t>(sum);
      carry = sum >> 32 & 1;
    }
  }

  std::array<uint32_t, 140> limbs_{};
};

// 2 * numerator - denominator * (a + b): the side of the midpoint of a and b the quotient is on.
int side_of_midpoint(const Wide& numerator, uint32_t denominator, double a, double b) {
  Wide ends;
  ends.add(a);
  ends.add(b);
  Wide twice = numerator.times(2);
  twice.add(ends.times(denominator), true);
  return twice.sign();
}

bool even(double x) {
  return (std::bit_cast<uint64_t>(x) & 1) == 0;
}

// True if `rounded` is numerator / denominator rounded half to even.
bool is_rounded(const Wide& numerator, uint32_t denominator, double rounded) {
  if (std::isinf(rounded)) {
    // The midpoint between DBL_MAX and the 2^1024 that would follow belongs to the infinity.
    Wide limit;
    const double sign = rounded > 0 ? 1.0 : -1.0;
    limit.add(sign * max_double);
    limit.add(sign * std::ldexp(1.0, 970));
    Wide beyond = numerator;
    beyond.add(limit.times(denominator), true);
    return rounded > 0 ? beyond.sign() >= 0 : beyond.sign() <= 0;
  }
  const auto neighbour_is_no_better = [&](double neighbour, int direction) {
    if (std::isinf(neighbour)) return !is_rounded(numerator, denominator, neighbour);
    const int side = direction * side_of_midpoint(numerator, denominator, rounded, neighbour);
    return side < 0 || (side == 0 && even(rounded));
  };
  return neighbour_is_no_better(std::nextafter(rounded, infinity), 1) &&
         neighbour_is_no_better(std::nextafter(rounded, -infinity), -1);
}

ExactSum sum_of(const std::vector<double>& inputs) {
  ExactSum sum;
  for (const double x : inputs) sum.add(x);
  return sum;
}

Wide wide_sum_of(const std::vector<double>& inputs) {
  Wide sum;
  for (const double x : inputs) sum.add(x);
  return sum;
}

std::string encoded(const ExactSum& sum) {
  std::string bytes;
  sum.encode(bytes);
  return bytes;
}

std::span<const unsigned char> as_span(const std::string& bytes) {
  return {reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()};
}

bool same(double a, double b) {
  return std::isnan(a) ? std::isnan(b) : std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b);
}

ExactSum decoded(const std::string& bytes) {
  auto span = as_span(bytes);
  ExactSum sum = ExactSum::decode(span);
  EXPECT_TRUE(span.empty());
  const auto plain = ExactSum::plain_value(as_span(bytes));
  EXPECT_TRUE(!plain || same(*plain, sum.value())) << sum.text();
  return sum;
}

// The kinds of streams that break inexact sums.
struct Stream {
  const char* name;
  double (*draw)(std::mt19937_64&);
};

double unit(std::mt19937_64& random) {
  return std::uniform_real_distribution<double>(1.0, 2.0)(random);
}

double signed_power(std::mt19937_64& random, int low, int high) {
  const int exponent = std::uniform_int_distribution<int>(low, high)(random);
  const double x = std::ldexp(unit(random), exponent);
  return random() % 2 ? x : -x;
}

const Stream streams[] = {
    {"prices", [](std::mt19937_64& r) { return std::round(unit(r) * 1e6) / 100; }},
    {"flows with dust",
     [](std::mt19937_64& r) {
       return (r() % 2 ? 1 : -1) * (r() % 3 ? 1e15 : r() % 2 ? 1e-9 : 0.1) * unit(r);
     }},
    {"few bits",
     [](std::mt19937_64& r) { return std::ldexp(r() % 2 ? 1.0 : -1.0, static_cast<int>(r() % 120) - 60); }},
    {"wide", [](std::mt19937_64& r) { return signed_power(r, -1074, 1020); }},
    {"subnormal", [](std::mt19937_64& r) { return signed_power(r, -1074, -1020); }},
    {"huge", [](std::mt19937_64& r) { return signed_power(r, 1015, 1023); }},
    {"bits",
     [](std::mt19937_64& r) {
       const auto x = std::bit_cast<double>(r());
       return std::isfinite(x) ? x : 1.5;
     }},
};

class ExactSumStreams : public testing::TestWithParam<Stream> {
 protected:
  std::vector<double> draw(uint64_t seed, size_t size) {
    std::mt19937_64 random(seed);
    std::vector<double> inputs(size);
    for (double& x : inputs) x = GetParam().draw(random);
    return inputs;
  }
};

TEST_P(ExactSumStreams, ValueIsTheRoundedSum) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam().name << ", seed " << seed);
    const auto inputs = draw(seed, 1 + seed * seed);
    const double value = sum_of(inputs).value();
    ASSERT_TRUE(is_rounded(wide_sum_of(inputs), 1, value)) << value;
  }
}

TEST_P(ExactSumStreams, OrderAndSplitDoNotMatter) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam().name << ", seed " << seed);
    std::mt19937_64 random(seed);
    auto inputs = draw(seed, 1 + random() % 3000);
    const ExactSum once = sum_of(inputs);
    std::shuffle(inputs.begin(), inputs.end(), random);
    std::vector<ExactSum> parts(1 + random() % 9);
    for (const double x : inputs) parts[random() % parts.size()].add(x);
    while (parts.size() > 1) {
      const ExactSum last = random() % 2 ? parts.back() : decoded(encoded(parts.back()));
      parts.pop_back();
      parts[random() % parts.size()].merge(last);
    }
    ASSERT_EQ(encoded(parts[0]), encoded(once));
    ASSERT_EQ(parts[0].text(), once.text());
    ASSERT_TRUE(parts[0] == once);
    ASSERT_TRUE(same(parts[0].value(), once.value()));
  }
}

TEST_P(ExactSumStreams, SubtractionIsTheInverse) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam().name << ", seed " << seed);
    std::mt19937_64 random(seed);
    const auto kept = draw(seed, random() % 50);
    const auto gone = draw(seed + 1000, random() % 3000);
    const ExactSum expected = sum_of(kept);
    ExactSum sum = sum_of(gone);
    for (const double x : kept) sum.add(x);
    if (seed % 2) {
      for (const double x : gone) sum.subtract(x);
    } else {
      sum.subtract(sum_of(gone));
    }
    ASSERT_EQ(encoded(sum), encoded(expected));
    ExactSum squares;
    for (const double x : gone) squares.add_square(x);
    for (const double x : gone) squares.subtract_square(x);
    ASSERT_TRUE(squares == ExactSum());
  }
}

TEST_P(ExactSumStreams, SquaresAreExact) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam().name << ", seed " << seed);
    const auto inputs = draw(seed, 1 + seed * 20);
    ExactSum squares;
    Wide expected;
    for (const double x : inputs) {
      squares.add_square(x);
      expected.add_product(x, x);
    }
    ASSERT_TRUE(is_rounded(expected, 1, squares.value())) << squares.value();
    ASSERT_TRUE(decoded(encoded(squares)) == squares);
  }
}

TEST_P(ExactSumStreams, VarianceIsRoundedOnce) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam().name << ", seed " << seed);
    const auto inputs = draw(seed, 2 + seed / 4);
    ExactSum squares;
    Wide numerator;
    for (const double x : inputs) {
      squares.add_square(x);
      for (const double y : inputs) {
        numerator.add_product(x, x);
        numerator.add_product(x, y, true);
      }
    }
    const auto n = static_cast<uint32_t>(inputs.size());
    const ExactSum sum = sum_of(inputs);
    ASSERT_TRUE(is_rounded(numerator, n * n, tick::variance(n, sum, squares, false)));
    ASSERT_TRUE(is_rounded(numerator, n * (n - 1), tick::variance(n, sum, squares, true)));
  }
}

TEST_P(ExactSumStreams, EncodingAndTextRoundTrip) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam().name << ", seed " << seed);
    auto inputs = draw(seed, seed);
    if (seed % 4 == 0) inputs.insert(inputs.end(), {quiet_nan, infinity, infinity, -infinity, -0.0});
    const ExactSum sum = sum_of(inputs);
    const std::string bytes = encoded(sum);
    const ExactSum back = decoded(bytes);
    ASSERT_TRUE(back == sum);
    ASSERT_EQ(encoded(back), bytes);
    ASSERT_EQ(back.count(), static_cast<int64_t>(inputs.size()));
    ASSERT_TRUE(ExactSum::parse(sum.text()) == sum) << sum.text();
    for (size_t length = 0; length < bytes.size(); ++length) {
      const std::string shorter = bytes.substr(0, length);
      auto span = as_span(shorter);
      ASSERT_THROW(ExactSum::decode(span), Error) << length;
      ASSERT_EQ(span.size(), length);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Streams, ExactSumStreams, testing::ValuesIn(streams), [](const auto& info) {
  std::string name = info.param.name;
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
});

TEST(ExactSum, RoundsHalfToEven) {
  const double half_ulp = std::ldexp(1.0, -53);
  EXPECT_EQ(sum_of({1.0, half_ulp}).value(), 1.0);
  EXPECT_EQ(sum_of({1.0, half_ulp, min_double}).value(), 1.0 + 2 * half_ulp);
  EXPECT_EQ(sum_of({1.0, half_ulp, -min_double}).value(), 1.0);
  EXPECT_EQ(sum_of({1.0, 3 * half_ulp}).value(), 1.0 + 4 * half_ulp);
  EXPECT_EQ(sum_of({-1.0, -3 * half_ulp}).value(), -1.0 - 4 * half_ulp);
  EXPECT_EQ(sum_of({-1.0, -3 * half_ulp, min_double}).value(), -1.0 - 2 * half_ulp);
  EXPECT_EQ(sum_of({std::nextafter(2.0, 0.0), half_ulp}).value(), 2.0);
}

TEST(ExactSum, FindsWhatFloatingPointLoses) {
  EXPECT_EQ(sum_of({1e308, 1e308, -1e308, -1e308, 1e-300}).value(), 1e-300);
  EXPECT_EQ(sum_of({1e16, 1.0, -1e16}).value(), 1.0);
  EXPECT_EQ(sum_of(std::vector<double>(10, 0.1)).value(), 1.0);
  EXPECT_EQ(sum_of(std::vector<double>(1'000'000, -0.1)).value(), -100000.0);
}

TEST(ExactSum, SubnormalsAreExact) {
  EXPECT_EQ(sum_of({min_double}).value(), min_double);
  EXPECT_EQ(sum_of({min_double, min_double, -min_double}).value(), min_double);
  EXPECT_EQ(sum_of({std::ldexp(1.0, -1022), -min_double}).value(), std::ldexp(1.0, -1022) - min_double);
  ExactSum squares;
  squares.add_square(min_double);
  EXPECT_TRUE(same(squares.value(), 0.0));
  EXPECT_EQ(squares.text(), "-68:[268435456] n=1");
  const double root = std::ldexp(1.0, -538);  // its square is a quarter of the least subnormal
  squares.clear();
  squares.add_square(root);
  squares.add_square(root);
  EXPECT_EQ(squares.value(), 0.0);
  squares.add_square(min_double);
  EXPECT_EQ(squares.value(), min_double);
}

TEST(ExactSum, OverflowIsSeenAndCanBeTakenBack) {
  ExactSum sum = sum_of({max_double, std::ldexp(1.0, 969)});
  EXPECT_EQ(sum.value(), max_double);
  EXPECT_FALSE(sum.finite_overflow());
  sum.add(std::ldexp(1.0, 969));
  EXPECT_EQ(sum.value(), infinity);
  EXPECT_TRUE(sum.finite_overflow());
  sum.subtract(min_double);
  EXPECT_EQ(sum.value(), max_double);
  for (int i = 0; i < 5000; ++i) sum.add(-max_double);
  EXPECT_EQ(sum.value(), -infinity);
  EXPECT_TRUE(sum.finite_overflow());
  sum.add(infinity);
  EXPECT_EQ(sum.value(), infinity);
  EXPECT_FALSE(sum.finite_overflow());
  ExactSum squares;
  for (int i = 0; i < 5000; ++i) squares.add_square(max_double);
  EXPECT_TRUE(squares.finite_overflow());
  EXPECT_TRUE(decoded(encoded(squares)) == squares);
  for (int i = 0; i < 20; ++i) squares.merge(squares);
  EXPECT_TRUE(decoded(encoded(squares)) == squares);
}

TEST(ExactSum, SpecialValuesAreThoseOfPostgres) {
  EXPECT_TRUE(std::isnan(sum_of({1, quiet_nan, infinity}).value()));
  EXPECT_TRUE(std::isnan(sum_of({infinity, 1, -infinity}).value()));
  EXPECT_EQ(sum_of({infinity, -max_double, infinity}).value(), infinity);
  EXPECT_EQ(sum_of({-infinity, max_double, max_double}).value(), -infinity);
  ExactSum sum = sum_of({2.5, quiet_nan, infinity, -infinity, -infinity});
  EXPECT_TRUE(sum.has_special());
  sum.subtract(quiet_nan);
  sum.subtract(-infinity);
  EXPECT_TRUE(std::isnan(sum.value()));
  sum.subtract(infinity);
  EXPECT_EQ(sum.value(), -infinity);
  sum.subtract(-infinity);
  EXPECT_EQ(sum.value(), 2.5);
  EXPECT_TRUE(sum == sum_of({2.5}));
  ExactSum squares;
  squares.add_square(-infinity);
  EXPECT_EQ(squares.value(), infinity);
  squares.add_square(quiet_nan);
  EXPECT_TRUE(std::isnan(squares.value()));
}

TEST(ExactSum, ZeroKeepsItsSignAsPostgresDoes) {
  EXPECT_TRUE(same(ExactSum().value(), 0.0));
  EXPECT_TRUE(same(sum_of({-0.0}).value(), -0.0));
  EXPECT_TRUE(same(sum_of({-0.0, -0.0}).value(), -0.0));
  EXPECT_TRUE(same(sum_of({-0.0, 0.0}).value(), 0.0));
  EXPECT_TRUE(same(sum_of({-1.0, 1.0}).value(), 0.0));
  ExactSum sum = sum_of({-0.0, 0.0, 7.0});
  sum.subtract(0.0);
  sum.subtract(7.0);
  EXPECT_TRUE(same(sum.value(), -0.0));
  sum.merge(sum);
  EXPECT_TRUE(same(sum.value(), -0.0));
  EXPECT_EQ(sum.count(), 2);
  sum.subtract(sum);
  EXPECT_TRUE(sum == ExactSum());
  ExactSum square;
  square.add_square(-0.0);
  EXPECT_TRUE(same(square.value(), 0.0));
}

TEST(ExactSum, CopiesAndMovesKeepTheSum) {
  for (const double big : {1.0, 1e300}) {
    ExactSum sum = sum_of({big, 1e-300, quiet_nan});
    sum.subtract(quiet_nan);
    ExactSum copy(sum);
    copy.add(1.0);
    EXPECT_FALSE(copy == sum);
    copy = sum;
    EXPECT_TRUE(copy == sum);
    ExactSum moved(std::move(copy));
    EXPECT_TRUE(moved == sum);
    copy = std::move(moved);
    EXPECT_TRUE(copy == sum);
    moved.clear();
    moved.add(3.0);
    EXPECT_TRUE(moved == sum_of({3.0}));
    sum.clear();
    EXPECT_TRUE(sum == ExactSum());
  }
}

TEST(ExactSum, MeanDoesNotOverflowNeedlessly) {
  EXPECT_EQ(tick::mean(3, sum_of({1, 2, 4})), 7.0 / 3);
  EXPECT_EQ(tick::mean(2, sum_of({max_double, max_double})), max_double);
  EXPECT_EQ(tick::mean(3, sum_of({-max_double, -max_double, -max_double})), -max_double);
  EXPECT_EQ(tick::mean(2, sum_of({infinity, 1})), infinity);
  EXPECT_TRUE(std::isnan(tick::mean(2, sum_of({infinity, -infinity}))));
  EXPECT_TRUE(same(tick::mean(2, sum_of({-0.0, -0.0})), -0.0));
  EXPECT_THROW(tick::mean(0, ExactSum()), Error);
}

TEST(ExactSum, VarianceOfKnownInputs) {
  const auto variance_of = [](const std::vector<double>& inputs, bool sample) {
    ExactSum squares;
    for (const double x : inputs) squares.add_square(x);
    return tick::variance(static_cast<int64_t>(inputs.size()), sum_of(inputs), squares, sample);
  };
  EXPECT_EQ(variance_of({1, 2, 3, 4}, false), 1.25);
  EXPECT_EQ(variance_of({1, 2, 3, 4}, true), 5.0 / 3);
  EXPECT_EQ(variance_of({1e15, 1e15 + 1, 1e15 + 2}, true), 1.0);
  EXPECT_TRUE(same(variance_of({0.1, 0.1, 0.1}, false), 0.0));
  EXPECT_TRUE(same(variance_of({-7.5}, false), 0.0));
  EXPECT_TRUE(std::isnan(variance_of({1, infinity}, false)));
  EXPECT_TRUE(std::isnan(variance_of({quiet_nan}, false)));
  EXPECT_EQ(variance_of({max_double, -max_double}, false), infinity);
  EXPECT_EQ(variance_of({max_double, std::nextafter(max_double, 0.0)}, true), infinity);
  EXPECT_EQ(variance_of({1e200, std::nextafter(1e200, 0.0)}, false),
            std::pow((1e200 - std::nextafter(1e200, 0.0)) / 2, 2));
  EXPECT_THROW(variance_of({}, false), Error);
  EXPECT_THROW(variance_of({1}, true), Error);
}

TEST(ExactSum, TextIsReadable) {
  EXPECT_EQ(ExactSum().text(), "0:[]");
  EXPECT_EQ(sum_of({1.5, 1.5}).text(), "0:[3] n=2");
  EXPECT_EQ(sum_of({-0.5}).text(), "-1:[-2147483648] n=1");
  EXPECT_EQ(sum_of({quiet_nan, infinity, -infinity, -infinity, -0.0, 4294967297.0}).text(),
            "0:[1,1] n=6 nan=1 inf=1 -inf=2 -0=1");
  for (const char* text : {"",
                           "x",
                           "0",
                           "0:",
                           "0:[",
                           "0:[1",
                           "0:[1,",
                           "0:[1,]",
                           "0:[0]",
                           "0:[,1]",
                           "0:[1]x",
                           "0:[1] ",
                           "0:[1] n=",
                           "0:[1] n=0",
                           "1:[]",
                           "0:[1] nan=1 n=1",
                           "0:[9999999999]",
                           "-69:[1]",
                           "66:[1,1]",
                           "200:[1]",
                           "99999999999:[1]",
                           "0:[1]n=1",
                           "0:[+1]",
                           "00:[1]"}) {
    EXPECT_THROW(ExactSum::parse(text), Error) << text;
  }
}

TEST(ExactSum, DecodeSurvivesGarbage) {
  std::mt19937_64 random(20260801);
  int accepted = 0;
  for (int round = 0; round < 200'000; ++round) {
    std::string bytes;
    if (round % 2) {
      bytes.resize(random() % 40);
      for (char& byte : bytes) byte = static_cast<char>(random() % (round % 3 ? 256 : 6));
    } else {
      bytes = encoded(sum_of({std::ldexp(unit(random), static_cast<int>(random() % 200)), 1.0, -0.0}));
      for (int i = static_cast<int>(random() % 4); i >= 0; --i) {
        bytes[random() % bytes.size()] = static_cast<char>(random());
      }
    }
    auto span = as_span(bytes);
    try {
      ExactSum sum = ExactSum::decode(span);
      ++accepted;
      ASSERT_EQ(encoded(sum), bytes.substr(0, bytes.size() - span.size())) << "round " << round;
      const auto plain = ExactSum::plain_value(as_span(bytes));
      ASSERT_TRUE(!plain || (span.empty() && same(*plain, sum.value()))) << "round " << round;
      sum.merge(sum_of({1.0, infinity}));
      sum.value();
      sum.text();
    } catch (const Error& error) {
      ASSERT_EQ(error.code, Error::Code::data_corrupted);
      ASSERT_FALSE(ExactSum::plain_value(as_span(bytes))) << "round " << round;
    }
  }
  EXPECT_GT(accepted, 1000);
}

// Of halves, of sums at both ends of what is plain, and of both signs.
TEST(ExactSum, PlainValueIsTheValue) {
  std::mt19937_64 random(20261122);
  int plain = 0, other = 0;
  for (int round = 0; round < 200'000; ++round) {
    std::vector<double> inputs;
    const int scale = static_cast<int>(random() % 2098) - 1074, spread = static_cast<int>(random() % 130) + 1;
    for (int i = static_cast<int>(random() % 6); i >= 0; --i) {
      // Few bits set: halves and ties come often.
      const double few = static_cast<double>(random() & random() & random() & ((uint64_t{1} << 53) - 1));
      const int down = static_cast<int>(random() % static_cast<uint64_t>(spread));
      inputs.push_back((random() % 2 ? -1 : 1) * std::ldexp(random() % 2 ? few : 1.0, scale - down));
    }
    const std::string bytes = encoded(sum_of(inputs));
    const auto value = ExactSum::plain_value(as_span(bytes));
    ++(value ? plain : other);
    (void)decoded(bytes);
    ASSERT_FALSE(HasFailure()) << "round " << round;
  }
  EXPECT_GT(plain, 100'000);
  EXPECT_GT(other, 1000);
}

TEST(Varint, RoundTripsAndRejectsLongForms) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 10'000; ++round) {
    const auto value = static_cast<int64_t>(random() >> (random() % 64)) * (random() % 2 ? 1 : -1);
    std::string bytes;
    tick::put_varint(bytes, value);
    auto span = as_span(bytes);
    ASSERT_EQ(tick::take_varint(span), value);
    ASSERT_TRUE(span.empty());
  }
  for (const int64_t value : {INT64_MIN, INT64_MAX, int64_t{0}, int64_t{-1}}) {
    std::string bytes;
    tick::put_varint(bytes, value);
    auto span = as_span(bytes);
    EXPECT_EQ(tick::take_varint(span), value);
  }
  for (const std::string& bytes : {std::string(), std::string("\x80"), std::string("\x80\x00", 2),
                                   std::string(9, '\xff') + "\x02", std::string(11, '\xff')}) {
    auto span = as_span(bytes);
    EXPECT_THROW(tick::take_varint(span), Error);
  }
}

}  // namespace
