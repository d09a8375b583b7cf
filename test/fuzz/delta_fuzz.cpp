// libFuzzer over deltas, the records of the queue: the first byte chooses the program. What merge_delta lets
// pass gives a fold that is written and read again to the same bytes, and that merges with itself.
#include <array>
#include <cstdlib>

#include "core/fold.hpp"

namespace {

using namespace tick;

void require(bool holds) {
  if (!holds) std::abort();
}

// Every type as a key, and every kind of partial over every type it takes.
std::array<Program, 3> programs() {
  std::array<Program, 3> all;
  Program& candles = all[0];
  candles.inputs = {{Type::text}, {Type::timestamp}, {Type::float8}, {Type::int8}};
  candles.keys = {0};
  candles.time = 1;
  candles.pane = 60'000'000;
  candles.items = {{ItemKind::count},         {ItemKind::sum, 2}, {ItemKind::sum_sq, 2},
                   {ItemKind::min, 2},        {ItemKind::max, 2}, {ItemKind::first, 2, 1, 3},
                   {ItemKind::last, 2, 1, 3}, {ItemKind::sum, 3}};
  Program& numerics = all[1];
  numerics.inputs = {{Type::numeric}, {Type::bpchar}, {Type::int4}, {Type::bytes}};
  numerics.keys = {1, 0};
  numerics.items = {{ItemKind::count},         {ItemKind::sum, 0},     {ItemKind::sum_sq, 0},
                    {ItemKind::min, 0},        {ItemKind::max, 1},     {ItemKind::sum_sq, 2},
                    {ItemKind::last, 3, 0, 2}, {ItemKind::first, 1, 3}};
  Program& whole = all[2];
  whole.inputs = {{Type::boolean}, {Type::int2}, {Type::date}, {Type::float4}, {Type::word}};
  whole.items = {{ItemKind::count},  {ItemKind::min, 0}, {ItemKind::sum, 1},
                 {ItemKind::max, 2}, {ItemKind::sum, 3}, {ItemKind::last, 4, 2}};
  return all;
}

std::string encoded(const Fold& fold) {
  std::string bytes;
  encode(fold, bytes);
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::array<Program, 3> all = programs();
  if (size == 0) return 0;
  const Program& program = all[data[0] % all.size()];
  const std::string_view delta(reinterpret_cast<const char*>(data) + 1, size - 1);
  Fold fold(program);
  try {
    merge_delta(fold, delta);
  } catch (const Error& error) {
    require(!error.message.empty());
    return 0;
  }
  const std::string once = encoded(fold);
  Fold again(program);
  merge_delta(again, once);
  require(encoded(again) == once);
  try {
    merge_delta(fold, once);
    (void)encoded(fold);
    fold.restrict_to(0, 1);
    (void)encoded(fold);
  } catch (const Error& error) {
    require(!error.message.empty());
  }
  return 0;
}
