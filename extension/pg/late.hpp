// Rows that a rollup does not take in, listed in tick_catalog.late as partials and counts: for windows that
// are frozen, with keys too wide for its index, without a time. They are never lost silently, and what is
// listed is what may differ between the rollup and its query.
#pragma once

#include <array>
#include <optional>

#include "rollup.hpp"

namespace tick::pg {

// Why rows are not taken in.
enum class Refusal : uint8_t { frozen, key, no_time };
inline constexpr std::array refusals{Refusal::frozen, Refusal::key, Refusal::no_time};

// True if the keys of a slot do not fit into an index row, however they compress.
bool is_too_wide(const Fold& fold, size_t slot);

// Lists what a fold of the rollup holds, adding to what is listed already. Inside SPI. Throws.
void list_late(const Rollup& rollup, const Fold& fold, Refusal refusal, TimestampTz now);

// Forgets what is listed for windows starting in [lo, hi), as the recompute of them sees those rows; from
// minus_infinity on also what has no time. Inside SPI. Throws.
void forget_late(const Rollup& rollup, Micros lo, Micros hi);

}  // namespace tick::pg
