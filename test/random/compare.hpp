// Whether two values, as text, are the same; rows for people.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "server.hpp"

namespace tick::random {

// All of a row, for people.
inline std::string text_of(const std::vector<std::string>& row) {
  std::string text;
  for (const std::string& field : row) text += (text.empty() ? "(" : ", ") + field;
  return text + ")";
}

// Numbers may be written with more or fewer zeros; a rounded one may be a little off.
inline bool equal(const std::string& stored, const std::string& expected, bool rounded) {
  if (stored == expected) return true;
  if (stored == null_text || expected == null_text) return false;
  char *end_a, *end_b;
  const double a = std::strtod(stored.c_str(), &end_a), b = std::strtod(expected.c_str(), &end_b);
  if (*end_a != 0 || *end_b != 0 || stored.empty() || expected.empty()) return false;
  if (std::isnan(a) && std::isnan(b)) return true;
  if (rounded) return std::fabs(a - b) <= 1e-6 * std::max({1.0, std::fabs(a), std::fabs(b)});
  if (a != b) return false;
  const auto trimmed = [](std::string text) {
    if (text.find('.') == std::string::npos || text.find('e') != std::string::npos) return text;
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text;
  };
  const std::string x = trimmed(stored), y = trimmed(expected);
  return x == y || (a == 0 && b == 0);
}

}  // namespace tick::random
