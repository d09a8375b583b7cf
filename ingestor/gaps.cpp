// Queries of tick.gaps; see gaps.hpp.
#include "gaps.hpp"

#include <algorithm>

#include "log.hpp"
#include "number.hpp"

namespace tick::ingest {

namespace {
constexpr auto settings_hold = std::chrono::seconds(30);  // dedup may be declared while a feed runs
constexpr auto retry_after = std::chrono::seconds(1);
}  // namespace

Gaps::Gaps(std::string database, std::string table, std::string exchange)
    : database_name_(std::move(database)), table_(std::move(table)), exchange_(std::move(exchange)) {}

Gaps::Answer Gaps::read() {
  Answer answer;
  const auto time = Clock::now();
  if (!database_ && time < look_again_) return answer;
  try {
    if (!database_) {
      database_ = std::make_unique<Database>(database_name_);
      look_again_ = {};
    }
    if (time >= look_again_) {
      const std::string parameters[] = {table_};
      has_ids_ = !database_
                      ->query(
                          "SELECT FROM tick.sources WHERE source = to_regclass($1) AND dedup_id = 'trade_id' "
                          "AND 'symbol' = ANY (dedup_key)",
                          parameters)
                      .empty();
      look_again_ = time + settings_hold;
    }
    answer.what = has_ids_ ? Answer::holes : Answer::no_ids;
    if (!has_ids_) return answer;
    const std::string parameters[] = {table_, exchange_, std::to_string(most_holes)};
    const auto rows = database_->query(
        "SELECT key ->> 'symbol', from_id, to_id, (extract(epoch FROM from_time) * 1000000)::int8, key FROM "
        "tick.gaps WHERE source = to_regclass($1) AND coalesce(key ->> 'exchange', $2) = $2 ORDER BY to_id "
        "DESC LIMIT $3::int8",
        parameters);
    for (const auto& row : rows) {
      Hole hole;
      hole.first = parse_integer(row[1].value_or("")).value_or(0);
      hole.last = parse_integer(row[2].value_or("")).value_or(-1);
      if (row[3]) hole.after = Timestamp(std::chrono::microseconds(parse_integer(*row[3]).value_or(0)));
      const std::string symbol = row[0].value_or("");
      keys_[symbol] = row[4].value_or("");
      answer.by_symbol[symbol].push_back(hole);
    }
    for (auto& [symbol, holes] : answer.by_symbol)
      std::reverse(holes.begin(), holes.end());  // ascending, as a position keeps them
    last_error_.clear();
  } catch (const DatabaseError& error) {
    if (!error.connection_lost() && last_error_ != error.what())
      log::warn(std::string("tick.gaps cannot be read: ") + error.what());
    last_error_ = error.what();
    database_.reset();
    look_again_ = time + retry_after;
    answer.what = Answer::unknown;
  }
  return answer;
}

void Gaps::explain(const std::string& symbol, const Hole& hole, const std::string& reason) {
  const auto key = keys_.find(symbol);
  if (!database_ || !has_ids_ || key == keys_.end()) return;
  try {
    const std::string parameters[] = {table_, key->second, std::to_string(hole.last), reason};
    database_->query("SELECT tick.explain_gap(to_regclass($1), $2::jsonb, $3::int8, $4)", parameters);
  } catch (const DatabaseError& error) {
    if (!error.connection_lost()) log::warn(std::string("tick.explain_gap: ") + error.what());
    database_.reset();
  }
}

}  // namespace tick::ingest
