// libFuzzer over sets of ids as state and queue keep them. The first byte chooses what the bytes are. What is
// let pass obeys the laws of sets, and written again it is the same.
#include <algorithm>
#include <array>
#include <cstdlib>

#include "core/id_set.hpp"

namespace {

using namespace tick;
using Bytes = std::span<const unsigned char>;

void require(bool holds) {
  if (!holds) std::abort();
}

void check(const IdSet& set) {
  const auto ranges = set.ranges();
  for (size_t i = 0; i < ranges.size(); ++i) {
    require(ranges[i].lo <= ranges[i].hi);
    require(i == 0 || (ranges[i - 1].hi < ranges[i].lo && ranges[i].lo - 1 != ranges[i - 1].hi));
    require(set.contains(ranges[i].lo) && set.contains(ranges[i].hi));
  }
}

std::string encoded(const IdSet& set) {
  std::string bytes;
  set.encode(bytes);
  return bytes;
}

void one_set(Bytes in) {
  IdSet set = IdSet::decode(in);
  check(set);
  const std::string bytes = encoded(set);
  Bytes again(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  require(IdSet::decode(again) == set && again.empty());
  if (in.empty()) return;
  IdSet other = IdSet::decode(in);
  IdSet both = set, rest = set;
  both.insert(other);
  rest.erase(other);
  check(both);
  check(rest);
  for (const auto& range : other.ranges()) require(both.contains(range.lo) && !rest.contains(range.hi));
  rest.insert(other);
  require(std::ranges::equal(rest.ranges(), both.ranges(),
                             [](const auto& a, const auto& b) { return a.lo == b.lo && a.hi == b.hi; }));
  both.date_edges(1);
  (void)both.count();
  if (!other.empty()) {
    const int64_t id = other.ranges().front().lo;
    require(set.insert(id) || set.contains(id));
    require(set.erase(id) && !set.contains(id));
    check(set);
  }
}

void one_change(std::string_view text) {
  const IdDelta delta = IdDelta::decode(text);
  std::string bytes;
  delta.encode(bytes);
  const IdDelta again = IdDelta::decode(bytes);
  require(again.group == delta.group && again.order == delta.order &&
          again.entries.size() == delta.entries.size());
  IdSet set;
  IdChange all;
  for (const auto& entry : delta.entries) {
    entry.change.apply_to(set);
    all.then(entry.change);
    check(set);
  }
  IdSet at_once;
  all.apply_to(at_once);
  require(std::ranges::equal(at_once.ranges(), set.ranges(),
                             [](const auto& a, const auto& b) { return a.lo == b.lo && a.hi == b.hi; }));
}

void one_key(std::string_view text) {
  constexpr std::array types{Type::text, Type::int8, Type::float8, Type::numeric};
  const std::vector<Cell> cells = read_key(text, types);
  require(cells.size() == types.size());
  std::string key;
  for (size_t i = 0; i < types.size(); ++i) append_key(key, cells[i], types[i]);
  require(key == text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0] % 3) {
      case 0:
        one_set({data + 1, size - 1});
        break;
      case 1:
        one_change(text);
        break;
      default:
        one_key(text);
    }
  } catch (const Error& error) {
    require(error.code == Error::Code::data_corrupted);
  }
  return 0;
}
