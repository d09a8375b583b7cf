// numeric's bytes and DecimalSum against a schoolbook decimal that adds one digit at a time.
#include "core/decimal.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/exact_sum.hpp"

namespace {

using tick::DecimalSum;
using tick::Error;
using tick::from_text;
using tick::to_text;

// Ten's complement, 400 digits before the point and 400 after it.
class Schoolbook {
 public:
  void add(const std::string& text, bool negative = false) {
    const bool minus = text[0] == '-';
    const std::string digits = text.substr(minus);
    const size_t point = std::min(digits.find('.'), digits.size());
    for (size_t i = 0; i < digits.size(); ++i) {
      if (i == point) continue;
      const int power = static_cast<int>(point) - static_cast<int>(i) - (i < point ? 1 : 0);
      add_digit(power, (digits[i] - '0') * (minus != negative ? -1 : 1));
    }
  }

  // Adds the square, digit by digit.
  void add_square(const std::string& text, bool negative = false) {
    std::string digits = text.substr(text[0] == '-');
    const size_t point = std::min(digits.find('.'), digits.size());
    digits.erase(point, 1);
    for (size_t i = 0; i < digits.size(); ++i) {
      for (size_t j = 0; j < digits.size(); ++j) {
        const int power = 2 * static_cast<int>(point) - static_cast<int>(i + j) - 2;
        add_digit(power, (digits[i] - '0') * (digits[j] - '0') * (negative ? -1 : 1));
      }
    }
  }

  std::string text(int scale) const {
    Schoolbook magnitude = *this;
    const bool negative = digits_.back() == 9;
    if (negative) {
      for (int& digit : magnitude.digits_) digit = 9 - digit;
      magnitude.add_digit(-half, 1);
    }
    std::string out;
    for (int power = half - 1; power >= -scale; --power) {
      if (power == -1) out += '.';
      const int digit = magnitude.digits_[half + power];
      if (digit != 0 || !out.empty() || power <= 0) out += static_cast<char>('0' + digit);
    }
    return (negative ? "-" : "") + out;
  }

 private:
  static constexpr int half = 400;

  void add_digit(int power, int value) {
    for (size_t i = half + power; value != 0 && i < digits_.size(); ++i) {
      value += digits_[i];
      digits_[i] = ((value % 10) + 10) % 10;
      value = (value - digits_[i]) / 10;
    }
  }

  std::array<int, 2 * half> digits_{};
};

std::string encoded(const DecimalSum& sum) {
  std::string bytes;
  sum.encode(bytes);
  return bytes;
}

std::span<const unsigned char> as_span(const std::string& bytes) {
  return {reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()};
}

DecimalSum decoded(const std::string& bytes) {
  auto span = as_span(bytes);
  DecimalSum sum = DecimalSum::decode(span);
  EXPECT_TRUE(span.empty());
  return sum;
}

DecimalSum sum_of(const std::vector<std::string>& texts) {
  DecimalSum sum;
  for (const std::string& text : texts) sum.add(from_text(text));
  return sum;
}

std::string words(std::initializer_list<unsigned> values) {
  std::string bytes;
  for (const unsigned value : values) {
    const auto word = static_cast<uint16_t>(value);
    bytes.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  return bytes;
}

std::string random_decimal(std::mt19937_64& random, int max_whole, int max_fraction) {
  const size_t whole = 1 + random() % max_whole;
  const size_t fraction = random() % (max_fraction + 1);
  std::string text = random() % 2 ? "-" : "";
  for (size_t i = 0; i < whole; ++i) text += static_cast<char>('0' + random() % 10);
  if (fraction > 0) text += '.';
  for (size_t i = 0; i < fraction; ++i) text += static_cast<char>('0' + (random() % 3 ? random() % 10 : 0));
  return text;
}

int scale_of(const std::string& text) {
  const size_t point = text.find('.');
  return point == std::string::npos ? 0 : static_cast<int>(text.size() - point - 1);
}

struct Shape {
  const char* name;
  int whole;
  int fraction;
};

class DecimalShapes : public testing::TestWithParam<Shape> {
 protected:
  std::vector<std::string> draw(std::mt19937_64& random, size_t size) const {
    std::vector<std::string> texts(size);
    for (auto& text : texts) text = random_decimal(random, GetParam().whole, GetParam().fraction);
    return texts;
  }
};

INSTANTIATE_TEST_SUITE_P(Shapes, DecimalShapes,
                         testing::Values(Shape{"price", 6, 8}, Shape{"integer", 18, 0}, Shape{"dust", 1, 18},
                                         Shape{"wide", 120, 150}),
                         [](const auto& info) { return info.param.name; });

TEST_P(DecimalShapes, SumIsTheSchoolbookSum) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam().name << ", seed " << seed);
    std::mt19937_64 random(seed);
    Schoolbook expected;
    Schoolbook expected_squares;
    int scale = 0;
    DecimalSum sum;
    DecimalSum squares;
    for (const std::string& text : draw(random, 1 + random() % 100)) {
      scale = std::max(scale, scale_of(text));
      expected.add(text);
      expected_squares.add_square(text);
      sum.add(from_text(text));
      squares.add_square(from_text(text));
    }
    ASSERT_EQ(to_text(sum.numeric()), expected.text(scale));
    ASSERT_EQ(to_text(squares.numeric()), expected_squares.text(2 * scale));
    ASSERT_EQ(sum.numeric(), from_text(expected.text(scale)));
  }
}

TEST_P(DecimalShapes, OrderAndSplitDoNotMatter) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam().name << ", seed " << seed);
    std::mt19937_64 random(seed);
    auto texts = draw(random, 1 + random() % 400);
    if (seed % 5 == 0) texts.insert(texts.end(), {"NaN", "Infinity", "-Infinity"});
    const DecimalSum once = sum_of(texts);
    std::shuffle(texts.begin(), texts.end(), random);
    std::vector<DecimalSum> parts(1 + random() % 9);
    for (const auto& text : texts) parts[random() % parts.size()].add(from_text(text));
    while (parts.size() > 1) {
      const DecimalSum last = random() % 2 ? parts.back() : decoded(encoded(parts.back()));
      parts.pop_back();
      parts[random() % parts.size()].merge(last);
    }
    ASSERT_EQ(encoded(parts[0]), encoded(once));
    ASSERT_TRUE(parts[0] == once);
    ASSERT_EQ(parts[0].numeric(), once.numeric());
    ASSERT_EQ(parts[0].count(), static_cast<int64_t>(texts.size()));
  }
}

TEST_P(DecimalShapes, SubtractionIsTheInverse) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam().name << ", seed " << seed);
    std::mt19937_64 random(seed);
    const auto kept = draw(random, random() % 20);
    auto gone = draw(random, random() % 400);
    gone.insert(gone.end(), {"NaN", "Infinity", "Infinity", "-Infinity"});
    DecimalSum sum = sum_of(gone);
    DecimalSum squares;
    for (const auto& text : kept) sum.add(from_text(text));
    for (const auto& text : gone) squares.add_square(from_text(text));
    for (const auto& text : gone) squares.subtract_square(from_text(text));
    if (seed % 2) {
      for (const auto& text : gone) sum.subtract(from_text(text));
    } else {
      sum.subtract(sum_of(gone));
    }
    ASSERT_EQ(encoded(sum), encoded(sum_of(kept)));
    ASSERT_EQ(sum.numeric(), sum_of(kept).numeric());
    ASSERT_TRUE(squares == DecimalSum());
  }
}

TEST_P(DecimalShapes, ComparisonAndCanonicalFormAgreeWithTheDifference) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam().name << ", seed " << seed);
    std::mt19937_64 random(seed);
    const auto texts = draw(random, 2);
    const std::string a = from_text(texts[0]);
    std::string other = texts[1];
    // Often the same value at another scale, or one that differs in the last digit only.
    if (random() % 2) other = texts[0] + (scale_of(texts[0]) ? "" : ".") + std::string(1 + random() % 9, '0');
    if (random() % 3 == 0) other.back() = static_cast<char>('0' + random() % 10);
    const std::string b = from_text(other);
    DecimalSum difference;
    difference.add(a);
    difference.subtract(b);
    const std::string text = to_text(difference.numeric());
    const int sign = text.find_first_of("123456789") == std::string::npos ? 0 : text[0] == '-' ? -1 : 1;
    ASSERT_EQ(tick::compare(a, b), sign) << texts[0] << " and " << other;
    ASSERT_EQ(tick::compare(b, a), -sign);
    ASSERT_EQ(tick::canonical(a) == tick::canonical(b), sign == 0) << texts[0] << " and " << other;
    ASSERT_EQ(tick::compare(a, tick::canonical(a)), 0);
  }
}

TEST_P(DecimalShapes, EncodingRoundTripsAndTruncationIsSeen) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(testing::Message() << GetParam().name << ", seed " << seed);
    std::mt19937_64 random(seed);
    auto texts = draw(random, random() % 20);
    if (seed % 3 == 0) texts.insert(texts.end(), {"NaN", "Infinity", "-Infinity"});
    const DecimalSum sum = sum_of(texts);
    const std::string bytes = encoded(sum);
    ASSERT_TRUE(decoded(bytes) == sum);
    ASSERT_EQ(encoded(decoded(bytes)), bytes);
    for (size_t length = 0; length < bytes.size(); ++length) {
      const std::string shorter = bytes.substr(0, length);
      auto span = as_span(shorter);
      ASSERT_THROW(DecimalSum::decode(span), Error) << length;
      ASSERT_EQ(span.size(), length);
    }
  }
}

// The bytes PostgreSQL 15 stores, read from heap pages.
TEST(Decimal, BytesAreThoseOfPostgres) {
  EXPECT_EQ(from_text("0"), words({0x8000}));
  EXPECT_EQ(from_text("0.00"), words({0x8100}));
  EXPECT_EQ(from_text("-0.00"), words({0x8100}));
  EXPECT_EQ(from_text("1"), words({0x8000, 1}));
  EXPECT_EQ(from_text("-1.50"), words({0xa100, 1, 5000}));
  EXPECT_EQ(from_text("12345.6789"), words({0x8201, 1, 2345, 6789}));
  EXPECT_EQ(from_text("0.0001"), words({0x827f, 1}));
  EXPECT_EQ(from_text("0.00000001"), words({0x847e, 1}));
  EXPECT_EQ(from_text("10000"), words({0x8001, 1}));
  EXPECT_EQ(from_text("-1" + std::string(256, '0')), words({0x4000, 64, 1}));
  EXPECT_EQ(from_text("0." + std::string(63, '0') + "1"), words({0x0040, 0xfff0, 1}));
  EXPECT_EQ(from_text("NaN"), words({0xc000}));
  EXPECT_EQ(from_text("Infinity"), words({0xd000}));
  EXPECT_EQ(from_text("-Infinity"), words({0xf000}));
}

TEST(Decimal, TextIsThatOfPostgres) {
  for (const char* text :
       {"0", "0.00", "1", "-1.50", "12345.6789", "0.0001", "99999999.99999999", "NaN", "Infinity",
        "-Infinity", "-0.000000000000000000000000000000000000000000000000000000000000000000123"}) {
    EXPECT_EQ(to_text(from_text(text)), text);
  }
  EXPECT_EQ(to_text(from_text("00012.5")), "12.5");
  EXPECT_EQ(to_text(from_text(".5")), "0.5");
  EXPECT_EQ(to_text(from_text("5.")), "5");
  for (const char* text : {"", "-", ".", "1e5", "1.2.3", " 1", "nan", "--1"}) {
    EXPECT_THROW(from_text(text), Error) << text;
  }
}

TEST(Decimal, OrderIsThatOfPostgres) {
  const std::vector<std::string> ascending = {"-Infinity", "-10000.5", "-10000",   "-9999", "-0.5",
                                              "0",         "0.0001",   "0.00011",  "1",     "1.5",
                                              "9999",      "10000",    "Infinity", "NaN"};
  for (size_t i = 0; i < ascending.size(); ++i) {
    for (size_t j = 0; j < ascending.size(); ++j) {
      EXPECT_EQ(tick::compare(from_text(ascending[i]), from_text(ascending[j])), (i > j) - (i < j))
          << ascending[i] << " and " << ascending[j];
    }
  }
  EXPECT_EQ(tick::compare(from_text("1.0"), from_text("1.00")), 0);
  EXPECT_EQ(tick::compare(from_text("0"), from_text("-0.000")), 0);
}

TEST(Decimal, CanonicalHasTheSmallestScale) {
  EXPECT_EQ(to_text(tick::canonical(from_text("1.00"))), "1");
  EXPECT_EQ(to_text(tick::canonical(from_text("-1.2500"))), "-1.25");
  EXPECT_EQ(to_text(tick::canonical(from_text("0.000"))), "0");
  EXPECT_EQ(to_text(tick::canonical(from_text("120000.00"))), "120000");
  EXPECT_EQ(tick::canonical(from_text("1" + std::string(30, '0') + ".0")),
            from_text("1" + std::string(30, '0')));
  EXPECT_EQ(tick::canonical(from_text("NaN")), from_text("NaN"));
  // The long form of a value that fits the short one, and digits not trimmed.
  EXPECT_EQ(tick::canonical(words({0x0002, 0, 1})), words({0x8000, 1}));
  EXPECT_EQ(tick::canonical(words({0x4000, 1, 0, 7, 0})), words({0xa000, 7}));
}

TEST(Decimal, SumFollowsPostgres) {
  EXPECT_EQ(to_text(DecimalSum().numeric()), "0");
  EXPECT_EQ(to_text(sum_of({"1.5", "2.50", "-4"}).numeric()), "0.00");
  EXPECT_EQ(to_text(sum_of({"99999999.9999", "0.0001"}).numeric()), "100000000.0000");
  EXPECT_EQ(to_text(sum_of({"1", "NaN", "Infinity"}).numeric()), "NaN");
  EXPECT_EQ(to_text(sum_of({"1", "Infinity", "-Infinity"}).numeric()), "NaN");
  EXPECT_EQ(to_text(sum_of({"1", "-Infinity", "-Infinity"}).numeric()), "-Infinity");
  DecimalSum sum = sum_of({"1.125", "1", "Infinity"});
  sum.subtract(from_text("1.125"));
  sum.subtract(from_text("Infinity"));
  EXPECT_EQ(to_text(sum.numeric()), "1");
  sum.merge(sum);
  EXPECT_EQ(to_text(sum.numeric()), "2");
  sum.subtract(sum);
  EXPECT_TRUE(sum == DecimalSum());
  DecimalSum squares;
  squares.add_square(from_text("-1.5"));
  squares.add_square(from_text("2"));
  EXPECT_EQ(to_text(squares.numeric()), "6.25");
  squares.add_square(from_text("-Infinity"));
  EXPECT_EQ(to_text(squares.numeric()), "Infinity");
}

TEST(Decimal, ManyAdditionsCarry) {
  DecimalSum sum;
  const std::string nines = from_text("-9999.9999");
  for (int i = 0; i < 1'000'000; ++i) sum.add(nines);
  EXPECT_EQ(to_text(sum.numeric()), "-9999999900.0000");
  for (int i = 0; i < 999'999; ++i) sum.subtract(nines);
  EXPECT_EQ(encoded(sum), encoded(sum_of({"-9999.9999"})));
  DecimalSum doubled = sum_of({"9999"});
  for (int i = 0; i < 62; ++i) doubled.merge(doubled);
  EXPECT_EQ(to_text(doubled.numeric()), "46112248498255451652096");
}

TEST(Decimal, IntegersAreExact) {
  const auto text = [](tick::int128 value) { return to_text(tick::numeric_from_int128(value)); };
  const auto max = static_cast<tick::int128>(~static_cast<unsigned __int128>(0) >> 1);
  EXPECT_EQ(text(0), "0");
  EXPECT_EQ(text(-1), "-1");
  EXPECT_EQ(text(INT64_MIN), "-9223372036854775808");
  EXPECT_EQ(text(max), "170141183460469231731687303715884105727");
  EXPECT_EQ(text(-max - 1), "-170141183460469231731687303715884105728");
  EXPECT_EQ(tick::numeric_from_int128(1'0000'0000), words({0x8002, 1}));
  DecimalSum sum;
  for (int i = 0; i < 3; ++i) sum.add_int(-max - 1);
  EXPECT_EQ(to_text(sum.numeric()), "-510423550381407695195061911147652317184");
  for (int i = 0; i < 3; ++i) sum.subtract_int(-max - 1);
  EXPECT_TRUE(sum == DecimalSum());
  sum.add_square_int(INT64_MIN);
  EXPECT_EQ(to_text(sum.numeric()), "85070591730234615865843651857942052864");
  sum.subtract_square_int(INT64_MIN);
  EXPECT_TRUE(sum == DecimalSum());
}

TEST(Decimal, ResultBeyondTheFormatIsRefused) {
  DecimalSum sum;
  sum.add_square(words({0x0000, 32767, 9999}));
  EXPECT_TRUE(decoded(encoded(sum)) == sum);
  try {
    sum.numeric();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code, Error::Code::numeric_out_of_range);
  }
}

TEST(Decimal, MalformedBytesAreRefused) {
  for (const std::string& bytes :
       {std::string(), std::string("\0", 1), words({0x8000, 1}) + "x", words({0x0000}), words({0xe000}),
        words({0x8000, 10000}), words({0x8000, 0xffff}), words({0x0000, 0x8000, 1})}) {
    EXPECT_THROW(to_text(bytes), Error);
    EXPECT_THROW(tick::canonical(bytes), Error);
    EXPECT_THROW(tick::compare(bytes, words({0x8000})), Error);
    DecimalSum sum;
    EXPECT_THROW(sum.add(bytes), Error);
    EXPECT_THROW(sum.add_square(bytes), Error);
    EXPECT_TRUE(sum == DecimalSum());
  }
}

TEST(Decimal, GarbageNeverCrashes) {
  std::mt19937_64 random(20260802);
  int accepted = 0;
  for (int round = 0; round < 100'000; ++round) {
    std::string bytes(random() % 24, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random() % (round % 2 ? 256 : 8));
    if (round % 3 == 0) {
      bytes = encoded(sum_of({random_decimal(random, 9, 9), random_decimal(random, 9, 9), "NaN"}));
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    // An exact copy lets the sanitizer see a read beyond the end.
    const std::vector<unsigned char> exact(bytes.begin(), bytes.end());
    std::span<const unsigned char> span(exact);
    try {
      DecimalSum sum = DecimalSum::decode(span);
      ++accepted;
      ASSERT_EQ(encoded(sum), bytes.substr(0, bytes.size() - span.size())) << "round " << round;
      sum.merge(sum);
      sum.numeric();
    } catch (const Error&) {
    }
    try {
      const std::string_view view(reinterpret_cast<const char*>(exact.data()), exact.size());
      DecimalSum sum;
      sum.add(view);
      sum.add_square(view);
      tick::canonical(view);
      to_text(view);
      ++accepted;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(accepted, 1000);
}

// Places of digits at the ends of their word: refused before anything is added to them.
TEST(DecimalSum, RefusesPlacesOutOfRange) {
  for (const int64_t base : {INT64_MAX, INT64_MAX - 1, int64_t{1} << 40, INT64_MIN}) {
    std::string bytes(2, '\0');  // nothing special, no scales
    tick::put_varint(bytes, 3);
    tick::put_varint(bytes, base);
    bytes.append(6, '\1');
    std::span<const unsigned char> span(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
    EXPECT_THROW(DecimalSum::decode(span), Error) << base;
  }
}

}  // namespace
