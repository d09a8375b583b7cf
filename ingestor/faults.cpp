// The plan of faults; see faults.hpp.
#include "faults.hpp"

#include <algorithm>
#include <random>

#include "log.hpp"
#include "number.hpp"

namespace tick::ingest {

namespace {
// The first trades come as they are: a gap needs a trade before it.
constexpr std::uint64_t undisturbed = 100;

constexpr std::uint64_t drawn_apart = 10;

constexpr std::string_view names[fault_kinds] = {
    "drop",  "mute",       "half-open",  "duplicate",  "reorder",  "gap",     "bad-json",
    "giant", "close-1001", "close-1006", "close-1012", "shutdown", "no-pong", "slow"};

constexpr Fault quick[] = {Fault::duplicate, Fault::reorder, Fault::gap, Fault::bad_json, Fault::slow};

bool keeps_connection(Fault fault) {
  return std::find(std::begin(quick), std::end(quick), fault) != std::end(quick);
}

}  // namespace

std::string_view fault_name(Fault fault) {
  return names[static_cast<std::size_t>(fault)];
}

std::optional<Planned> parse_fault(std::string_view text) {
  const auto at = text.find('@');
  const auto name = std::find(std::begin(names), std::end(names), text.substr(0, at));
  const auto number = at == std::string_view::npos ? std::nullopt : parse_integer(text.substr(at + 1));
  if (name == std::end(names) || !number || *number < 1) return std::nullopt;
  return Planned{static_cast<std::uint64_t>(*number), static_cast<Fault>(name - std::begin(names))};
}

bool Faults::add(std::string_view text) {
  const auto planned = parse_fault(text);
  if (!planned) return false;
  plan_.insert(std::upper_bound(plan_.begin(), plan_.end(), *planned,
                                [](const Planned& a, const Planned& b) { return a.number < b.number; }),
               *planned);
  return true;
}

void Faults::draw(std::size_t count, std::uint64_t span, std::uint64_t seed) {
  apart_ = drawn_apart;
  std::mt19937_64 random(seed);
  // Those that end no connection come twice as often: the others keep everybody away for a while.
  std::vector<std::string_view> kinds(std::begin(names), std::end(names));
  for (const Fault fault : quick) kinds.push_back(fault_name(fault));
  const std::uint64_t room = std::max<std::uint64_t>(span - std::min(span, undisturbed), 1);
  for (std::size_t i = 0; i < count; ++i)
    add(std::string(kinds[i % kinds.size()]) + "@" + std::to_string(undisturbed + 1 + random() % room));
}

bool Faults::is_due(std::uint64_t trade) const {
  return !plan_.empty() && plan_.front().number <= trade && trade >= last_ + apart_;
}

std::optional<Fault> Faults::due(std::uint64_t trade) {
  if (!is_due(trade)) return std::nullopt;
  // Of several that are due, first one that ends no connection: that leaves time for more of them.
  const auto later = std::find_if(plan_.begin(), plan_.end(),
                                  [&](const Planned& planned) { return planned.number > trade; });
  auto next = std::find_if(plan_.begin(), later,
                           [](const Planned& planned) { return keeps_connection(planned.fault); });
  if (next == later) next = plan_.begin();
  const Fault fault = next->fault;
  plan_.erase(next);
  last_ = trade;
  return fault;
}

void Faults::played(Fault fault, std::uint64_t trade, std::string_view who) {
  ++counts_[static_cast<std::size_t>(fault)];
  log::info("fault " + std::string(fault_name(fault)) + " at trade " + std::to_string(trade) + ", " +
            std::string(who));
}

std::string Faults::summary() const {
  std::string text = "faults played:";
  std::size_t sum = 0;
  for (std::size_t i = 0; i < fault_kinds; ++i) {
    sum += counts_[i];
    if (counts_[i] > 0) text += " " + std::string(names[i]) + " " + std::to_string(counts_[i]) + ",";
  }
  if (sum + plan_.size() == 0) return "";
  return text + " together " + std::to_string(sum) + "; " + std::to_string(plan_.size()) + " not reached";
}

}  // namespace tick::ingest
