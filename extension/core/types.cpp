#include "types.hpp"

#include <cmath>
#include <cstring>

#include "decimal.hpp"

namespace tick {
namespace {

int sign(std::strong_ordering order) {
  return order < 0 ? -1 : order > 0 ? 1 : 0;
}

int compare_bytes(std::string_view a, std::string_view b) {
  return sign(a <=> b);
}

int compare_real(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return int(std::isnan(a)) - int(std::isnan(b));
  if (a != b) return a < b ? -1 : 1;
  return int(std::signbit(b)) - int(std::signbit(a));
}

}  // namespace

std::string_view without_trailing_blanks(std::string_view s) {
  while (!s.empty() && s.back() == ' ') s.remove_suffix(1);
  return s;
}

int compare(const Input& type, const Cell& a, const Cell& b, TextCompare compare_text) {
  switch (type.type) {
    case Type::float4:
    case Type::float8:
      return compare_real(a.real, b.real);
    case Type::numeric: {
      const int order = compare(a.view(), b.view());
      return order != 0 ? order : compare_bytes(a.view(), b.view());
    }
    case Type::text:
    case Type::bpchar: {
      std::string_view left = a.view(), right = b.view();
      if (type.type == Type::bpchar) {
        left = without_trailing_blanks(left);
        right = without_trailing_blanks(right);
      }
      if (type.collation != 0 && compare_text != nullptr) {
        const int order = compare_text(left, right, type.collation);
        if (order != 0) return order;
      }
      return compare_bytes(left, right);
    }
    case Type::bytes:
      return compare_bytes(a.view(), b.view());
    default:
      return a.word < b.word ? -1 : a.word > b.word ? 1 : 0;
  }
}

}  // namespace tick
