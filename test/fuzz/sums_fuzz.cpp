// libFuzzer over exact sums, which users may write themselves (text and binary input of tick.exact_sum), and
// over the bytes of numerics and their sums. The first byte chooses; what is let pass has one form only, and
// survives every operation.
#include <bit>
#include <cmath>
#include <cstdlib>

#include "core/decimal.hpp"
#include "core/error.hpp"
#include "core/exact_sum.hpp"

namespace {

using namespace tick;
using Bytes = std::span<const unsigned char>;

constexpr int doublings = 80;  // beyond the greatest limb, and the 2^63 of a count

void require(bool holds) {
  if (!holds) std::abort();
}

template <class Sum>
std::string encoded(const Sum& sum) {
  std::string bytes;
  sum.encode(bytes);
  return bytes;
}

template <class Sum>
Sum reread(const Sum& sum) {
  const std::string bytes = encoded(sum);
  Bytes in(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  const Sum again = Sum::decode(in);
  require(in.empty() && again == sum && encoded(again) == bytes);
  return again;
}

// Of a sum that may have come from anywhere.
void use(const ExactSum& sum) {
  (void)reread(sum);
  require(ExactSum::parse(sum.text()) == sum);
  const double value = sum.value();
  require(!std::isnan(value) || sum.has_special());
  const std::string bytes = encoded(sum);
  const auto plain =
      ExactSum::plain_value({reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()});
  require(!plain || std::bit_cast<std::uint64_t>(*plain) == std::bit_cast<std::uint64_t>(value));
  (void)sum.finite_overflow();
  if (sum.count() > 1) {
    (void)mean(sum.count(), sum);
    require(!(variance(sum.count(), sum, sum, true) < 0));
  }
}

void use(const DecimalSum& sum) {
  (void)reread(sum);
  (void)sum.lost_special();
  (void)sum.count();
  try {
    const std::string bytes = sum.numeric();
    require(from_text(to_text(bytes)) == bytes);
  } catch (const Error& error) {
    require(error.code == Error::Code::numeric_out_of_range);
  }
}

template <class Sum>
void grow(const Sum& sum) {
  Sum grown = sum;
  for (int i = 0; i < doublings; ++i) grown.merge(grown);
  use(grown);
  grown.subtract(grown);
  use(grown);
}

template <class Sum>
void one_sum(Bytes in) {
  const Bytes whole = in;
  const Sum sum = Sum::decode(in);
  require(encoded(sum) == std::string(whole.begin(), whole.end() - static_cast<std::ptrdiff_t>(in.size())));
  use(sum);
  grow(sum);
  if (in.empty()) return;
  const Sum other = Sum::decode(in);
  Sum both = sum;
  both.merge(other);
  use(both);
  both.subtract(other);
  require(both == sum);
}

void one_numeric(std::string_view bytes) {
  const std::string same = canonical(bytes), text = to_text(bytes), printed = from_text(text);
  require(compare(bytes, same) == 0 && canonical(same) == same);
  // Only bytes made by hand have digits beyond their display scale, which are not printed.
  if (compare(bytes, printed) == 0) require(to_text(printed) == text && canonical(printed) == same);
  DecimalSum sum, squares;
  sum.add(bytes);
  squares.add_square(bytes);
  use(sum);
  use(squares);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Bytes in(data + 1, size - 1);
  try {
    switch (data[0] % 4) {
      case 0:
        one_sum<ExactSum>(in);
        break;
      case 1:
        one_sum<DecimalSum>(in);
        break;
      case 2:
        grow(ExactSum::parse(text));
        break;
      default:
        one_numeric(text);
    }
  } catch (const Error& error) {
    require(error.code == Error::Code::data_corrupted || error.code == Error::Code::invalid_argument ||
            error.code == Error::Code::numeric_out_of_range);
  }
  return 0;
}
