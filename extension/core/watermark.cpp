#include "watermark.hpp"

#include <algorithm>

#include "window.hpp"

namespace tick {

void EventTime::note(const WatermarkRules& rules, Micros time, Micros now) {
  if (!is_ahead(rules, time, now)) {
    max_time = std::max(max_time, time);
    return;
  }
  const auto at = std::lower_bound(ahead.begin(), ahead.end(), time);
  if (at != ahead.end() && *at == time) return;
  ahead.insert(at, time);
  if (ahead.size() <= most_ahead) return;
  // The one closest behind another goes: until the next one's time has come the watermark is a little lower.
  size_t closest = 1;
  for (size_t i = 2; i < ahead.size(); ++i)
    if (ahead[i] - ahead[i - 1] < ahead[closest] - ahead[closest - 1]) closest = i;
  ahead.erase(ahead.begin() + static_cast<ptrdiff_t>(closest));
}

void EventTime::note_value(std::string_view name, Micros time, Micros now) {
  const auto at = std::lower_bound(values.begin(), values.end(), name,
                                   [](const Value& value, std::string_view n) { return value.name < n; });
  if (at != values.end() && at->name == name) {
    at->max_time = std::max(at->max_time, time);
    at->last_arrival = std::max(at->last_arrival, now);
    return;
  }
  values.insert(at, Value{std::string(name), time, now});
  if (values.size() <= most_values) return;
  const auto longest_idle =
      std::min_element(values.begin(), values.end(),
                       [](const Value& a, const Value& b) { return a.last_arrival < b.last_arrival; });
  values.erase(longest_idle);
}

bool EventTime::let_in(const WatermarkRules& rules, Micros now) {
  size_t count = 0;
  while (count < ahead.size() && !is_ahead(rules, ahead[count], now)) {
    max_time = std::max(max_time, ahead[count]);
    last_arrival = std::max(last_arrival, ahead[count] - rules.max_skew);
    ++count;
  }
  ahead.erase(ahead.begin(), ahead.begin() + static_cast<ptrdiff_t>(count));
  return count > 0;
}

bool EventTime::is_active(const WatermarkRules& rules, const Moment& moment, const Value& value) const {
  return moment.lagging ||
         std::max(value.last_arrival, moment.watched_since) + rules.idle_timeout >= moment.idle_until;
}

Micros EventTime::reach(const WatermarkRules& rules, const Moment& moment, Micros from) const {
  if (max_time == minus_infinity) return from;
  Micros base = plus_infinity;
  for (const Value& value : values)
    if (is_active(rules, moment, value)) base = std::min(base, value.max_time - rules.delay);
  Micros idle = 0;
  if (base == plus_infinity) {
    base = max_time - rules.delay;
    if (!moment.lagging && last_arrival != minus_infinity)
      idle = std::max<Micros>(0, moment.idle_until - last_arrival - rules.idle_timeout);
  }
  base = std::max(base, timestamp_min);
  from = std::max(from, base);
  return std::max(from, std::min(base + idle, from + moment.credit));
}

Micros EventTime::due(const WatermarkRules& rules, const Moment& moment, Micros from, Micros goal) const {
  Micros due = plus_infinity;
  if (!ahead.empty()) due = ahead.front() - rules.max_skew;
  if (max_time == minus_infinity) return due;
  bool active = false;
  for (const Value& value : values) {
    if (!is_active(rules, moment, value)) continue;
    active = true;
    due = std::min(due, std::max(value.last_arrival, moment.watched_since) + rules.idle_timeout + 1);
  }
  if (active || last_arrival == minus_infinity) return due;
  const Micros idle_from = last_arrival + rules.idle_timeout;
  Micros walked = idle_from + std::max<Micros>(0, goal - (max_time - rules.delay));
  if (idle_from <= moment.now && from != minus_infinity)
    walked = std::max(walked, moment.now + std::max<Micros>(0, goal - from));
  return std::min(due, walked);
}

}  // namespace tick
