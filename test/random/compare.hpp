// Whether two values, as text, are the same; rows for people; a rollup beside its oracle.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "server.hpp"
#include "shapes.hpp"

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

// What stands: the shape, and what was added to it since when (of the windows before, nobody knows).
struct Standing {
  Shape shape;
  size_t born_with = 0;            // columns
  std::vector<std::string> since;  // of the other columns, windows
  bool seeded = false;             // with the rows of before
  bool loose = false;              // a key it does not group by has changed: of windows whose rows are gone
                                   // nobody knows how
};

// What differs between a rollup and its oracle is an error; `compared` values were looked at, of which
// `unsure` ones differ for a reason.
struct Comparison {
  long compared = 0, unsure = 0;

  void rows(const std::string& source, const std::string& view, const Standing& rollup, const Rows& stored,
            const Rows& expected, const std::string& raw_from = null_text);
};

inline void Comparison::rows(const std::string& source, const std::string& view, const Standing& rollup,
                             const Rows& stored, const Rows& expected, const std::string& raw_from) {
  const Shape& shape = rollup.shape;
  const size_t keys = key_columns(shape);
  const auto index = [&](const Rows& rows) {
    std::map<std::vector<std::string>, const std::vector<std::string>*> result;
    for (const auto& row : rows)
      if (!result.emplace(std::vector<std::string>(row.begin(), row.begin() + static_cast<long>(keys)), &row)
               .second)
        throw Failed(view + " has a key twice: " + text_of(row));
    return result;
  };
  const auto is = index(stored), must = index(expected);
  std::string found;
  int differences = 0;
  const auto differs = [&](const std::string& text) {
    if (++differences <= 10) found += "\n  " + text;
  };
  for (const auto& [key, row] : must) {
    const auto other = is.find(key);
    if (other == is.end()) {
      differs("missing " + text_of(*row));
      continue;
    }
    // What has left cannot be computed again from raw rows that are not all there: a turn that began before
    // they went may know better.
    const bool covered =
        raw_from == null_text || (shape.window != 0 && shape.rows_from(key.back()) >= raw_from);
    const auto unknown = [&](const Column& column) { return !covered && !column.subtracts(); };
    for (size_t i = 0; i < shape.columns.size(); ++i) {
      if (i >= rollup.born_with && shape.rows_from(key.back()) < rollup.since[i - rollup.born_with]) continue;
      ++compared;
      if (equal((*other->second)[keys + i], (*row)[keys + i], shape.columns[i].rounded)) continue;
      if (unknown(shape.columns[i]))
        ++unsure;
      else
        differs(text_of(key) + " " + shape.columns[i].name + " is " + (*other->second)[keys + i] +
                ", must be " + (*row)[keys + i]);
    }
  }
  for (const auto& [key, row] : is)
    if (!must.contains(key)) differs("extra " + text_of(*row));
  if (differences > 0)
    throw Failed(std::to_string(differences) + " differences in " + view + ", " +
                 rollup_query(shape, source) + found);
}

}  // namespace tick::random
