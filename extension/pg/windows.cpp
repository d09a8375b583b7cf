#include "windows.hpp"

#include <cstdlib>

#include "guard.hpp"
#include "session.hpp"

namespace tick::pg {
namespace {

// Runs a statement of ours about windows of a rollup.
void window_statement(const char* sql, int rollup, const std::vector<Micros>& windows) {
  const Micros* starts = windows.data();
  const size_t count = windows.size();
  call([&] {
    auto* elements = static_cast<Datum*>(palloc(sizeof(Datum) * (count + 1)));
    for (size_t i = 0; i < count; ++i) elements[i] = Int64GetDatum(starts[i]);
    Oid types[2] = {INT4OID, get_array_type(INT8OID)};
    Datum values[2] = {Int32GetDatum(rollup),
                       PointerGetDatum(construct_array(elements, static_cast<int>(count), INT8OID, 8,
                                                       FLOAT8PASSBYVAL, TYPALIGN_DOUBLE))};
    if (SPI_execute_plan(kept_plan(sql, 2, types), values, nullptr, false, 0) < 0)
      elog(ERROR, "pg_tick: cannot run: %s", sql);
  });
}

// Those of some windows that had no row before this turn. A row that was there has been written to before, or
// has a new revision, as its window was final.
std::vector<Micros> without_earlier_rows(const Rollup& rollup, const std::vector<Micros>& windows,
                                         TimestampTz turn) {
  const Oid type = rollup.column_types.at(rollup.program.keys.size());
  const size_t count = windows.size();
  Micros* found = nullptr;
  uint64_t left = 0;
  call([&] {
    MemoryContext memory = CurrentMemoryContext;
    const char* table = state_text(rollup);
    const char* text = psprintf(
        "SELECT w FROM unnest($1) AS w WHERE NOT EXISTS (SELECT FROM %s AS s WHERE s.%s = w "
        "AND (s.revision > 0 OR s.updated_at <> $2))",
        table, time_text(rollup));
    auto* elements = static_cast<Datum*>(palloc(sizeof(Datum) * (count + 1)));
    for (size_t i = 0; i < count; ++i) elements[i] = TimestampTzGetDatum(windows[i]);
    Oid types[2] = {get_array_type(type), TIMESTAMPTZOID};
    Datum values[2] = {PointerGetDatum(construct_array(elements, static_cast<int>(count), type, 8,
                                                       FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)),
                       TimestampTzGetDatum(turn)};
    const Actor before = act_as_owner(rollup.owner);
    const int code = SPI_execute_with_args(text, 2, types, values, nullptr, false, 0);
    act_again(before);
    if (code != SPI_OK_SELECT) elog(ERROR, "pg_tick: cannot run: %s", text);
    left = SPI_processed;
    found = static_cast<Micros*>(MemoryContextAlloc(memory, sizeof(Micros) * (left + 1)));
    for (uint64_t row = 0; row < left; ++row) {
      bool null;
      found[row] =
          DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1, &null));
    }
  });
  return {found, found + left};
}

}  // namespace

void OpenWindows::load() {
  open_.clear();
  for (const auto& row : read_text("SELECT rollup, start FROM tick_catalog.open_window"))
    open_[std::atoi(row[0]->c_str())].insert(std::strtoll(row[1]->c_str(), nullptr, 10));
}

void OpenWindows::add(const Rollup& rollup, const std::vector<Micros>& windows) {
  if (windows.empty()) return;
  window_statement(
      "INSERT INTO tick_catalog.open_window SELECT $1, w FROM unnest($2) AS w ON CONFLICT DO NOTHING",
      rollup.id, windows);
  open_[rollup.id].insert(windows.begin(), windows.end());
}

void OpenWindows::touch(const Rollup& rollup, const std::set<Micros>& windows,
                        std::optional<TimestampTz> before, TimestampTz turn) {
  const auto known = open_.find(rollup.id);
  std::vector<Micros> opened, late;
  for (Micros window : windows) {
    if (known != open_.end() && known->second.contains(window)) continue;
    (before && window_end(window, rollup.size) <= *before ? late : opened).push_back(window);
  }
  if (!late.empty())
    for (Micros window : without_earlier_rows(rollup, late, turn)) opened.push_back(window);
  add(rollup, opened);
}

void OpenWindows::touch_recomputed(const Rollup& rollup, const std::set<Micros>& windows,
                                   std::optional<TimestampTz> after) {
  const auto known = open_.find(rollup.id);
  std::vector<Micros> opened;
  for (Micros window : windows)
    if ((known == open_.end() || !known->second.contains(window)) &&
        (!after || window_end(window, rollup.size) > *after))
      opened.push_back(window);
  add(rollup, opened);
}

Micros OpenWindows::earliest_end(const Rollup& rollup) const {
  const auto known = open_.find(rollup.id);
  if (known == open_.end() || known->second.empty()) return plus_infinity;
  return window_end(*known->second.begin(), rollup.size);
}

std::vector<Micros> OpenWindows::ended(const Rollup& rollup, TimestampTz watermark) const {
  std::vector<Micros> windows;
  const auto known = open_.find(rollup.id);
  if (known == open_.end()) return windows;
  for (Micros window : known->second) {
    if (window_end(window, rollup.size) > watermark) break;
    windows.push_back(window);
  }
  return windows;
}

void OpenWindows::remove(const Rollup& rollup, const std::vector<Micros>& windows) {
  window_statement("DELETE FROM tick_catalog.open_window WHERE rollup = $1 AND start = ANY ($2)", rollup.id,
                   windows);
}

void OpenWindows::forget(const Rollup& rollup, const std::vector<Micros>& windows) {
  for (Micros window : windows) open_[rollup.id].erase(window);
}

std::set<Micros> touched_windows(const Rollup& rollup) {
  std::set<Micros> windows;
  for (const auto& row : read_text("SELECT start FROM tick_catalog.touched WHERE rollup = $1", rollup.id))
    windows.insert(std::strtoll(row[0]->c_str(), nullptr, 10));
  return windows;
}

void touch_windows(const Rollup& rollup, const std::vector<Micros>& windows) {
  window_statement(
      "INSERT INTO tick_catalog.touched SELECT $1, w, now() FROM unnest($2) AS w ON CONFLICT DO NOTHING",
      rollup.id, windows);
}

}  // namespace tick::pg
