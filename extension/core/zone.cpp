#include "zone.hpp"

#include <algorithm>

#include "error.hpp"

namespace tick {
namespace {

constexpr Micros micros_of_day = 86'400'000'000;
constexpr Micros cycle = 146'097 * micros_of_day;  // 400 Gregorian years, whole weeks
// Moments after this are looked up whole cycles earlier.
constexpr Micros last_looked_up = Zone::changes_until - 4 * micros_of_day;
constexpr Micros quarters_since = -10'227 * micros_of_day;  // 1972-01-01

constexpr Micros saturate(__int128 t) {
  if (t > plus_infinity) return plus_infinity;
  if (t < minus_infinity) return minus_infinity;
  return static_cast<Micros>(t);
}

Micros to_quarter(Micros t) {
  const Micros shifted = t + zone_quarter / 2;
  const Micros rest = shifted % zone_quarter;
  return shifted - (rest < 0 ? rest + zone_quarter : rest);
}

// How far back, in whole cycles, a time has to be looked up.
Micros cycles_past(Micros t) {
  return t <= last_looked_up ? 0 : ((t - last_looked_up - 1) / cycle + 1) * cycle;
}

}  // namespace

Zone::Zone(Micros first, const std::vector<Change>& changes) {
  periods_.push_back({minus_infinity, to_quarter(first)});
  for (size_t i = 0; i <= changes.size(); ++i) {
    const Micros ends = i < changes.size() ? changes[i].at : plus_infinity;
    const Micros offset = i == 0 ? first : changes[i - 1].offset;
    // Monrovia was the last to leave its own time, on the seventh.
    if (ends > quarters_since + 7 * micros_of_day && offset % zone_quarter != 0)
      throw Error{Error::Code::invalid_argument,
                  "the offset of the time zone is not a whole number of quarters of an hour"};
  }
  for (const Change& change : changes) {
    const Change rounded{to_quarter(change.at), to_quarter(change.offset)};
    if (rounded.at == periods_.back().at)
      periods_.back().offset = rounded.offset;
    else if (rounded.offset != periods_.back().offset)
      periods_.push_back(rounded);
  }
}

size_t Zone::period_of(Micros moment) const {
  const auto after = std::upper_bound(periods_.begin() + 1, periods_.end(), moment,
                                      [](Micros at, const Change& change) { return at < change.at; });
  return static_cast<size_t>(after - periods_.begin()) - 1;
}

Micros Zone::local(Micros moment) const {
  return saturate(static_cast<__int128>(moment) + periods_[period_of(moment - cycles_past(moment))].offset);
}

Micros Zone::moment(Micros local) const {
  const Micros back = cycles_past(local);
  const __int128 wanted = static_cast<__int128>(local) - back;
  // Clocks are never two days off: a later period reads more from its beginning.
  size_t at = period_of(saturate(wanted + 2 * micros_of_day));
  while (at > 0 && static_cast<__int128>(periods_[at].at) + periods_[at].offset >= wanted) --at;
  __int128 result = wanted - periods_[at].offset;
  if (at + 1 < periods_.size() && result > periods_[at + 1].at) result = periods_[at + 1].at;
  return saturate(result + back);
}

}  // namespace tick
