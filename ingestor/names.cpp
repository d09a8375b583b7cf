// Edit distance; see names.hpp.
#include "names.hpp"

#include <algorithm>

namespace tick::ingest {

namespace {
constexpr std::size_t too_far = 4;
}

std::string nearest(std::string_view given, const std::vector<std::string>& known) {
  std::string best;
  std::size_t best_distance = too_far;
  for (const auto& name : known) {
    std::vector<std::size_t> row(name.size() + 1);
    for (std::size_t j = 0; j <= name.size(); ++j) row[j] = j;
    for (std::size_t i = 1; i <= given.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j <= name.size(); ++j) {
        const std::size_t above = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (given[i - 1] != name[j - 1])});
        diagonal = above;
      }
    }
    if (row[name.size()] < best_distance) {
      best_distance = row[name.size()];
      best = name;
    }
  }
  return best;
}

}  // namespace tick::ingest
