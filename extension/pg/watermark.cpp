#include "watermark.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "catalog.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "session.hpp"
#include "shared.hpp"
#include "source.hpp"

namespace tick::pg {
namespace {

// How far an idle watermark may walk at once when the worker starts: it has not watched the clock before.
constexpr Micros first_credit = 60 * USECS_PER_SEC;
constexpr double rate_seconds = 5;

// Columns of tick_catalog.watermark.
enum Column {
  column_source,
  column_watermark,
  column_max_time,
  column_last_arrival,
  column_rows,
  column_rate,
  column_ahead,
  column_late,
  column_future,
  column_rejected,
  column_value_names,
  column_value_times,
  column_value_arrivals,
  column_count
};

int64_t steady_micros() {
  using namespace std::chrono;
  return duration_cast<microseconds>(steady_clock::now().time_since_epoch()).count();
}

// What the catalogs say of one source.
struct Settings {
  Oid source;
  WatermarkRules rules;
  AttrNumber by;
  bool freezes;
  Micros freeze_after;
  bool asked;
  Micros watermark;
};

// Arrays as they come from and go to a row; palloc'ed.
struct Times {
  Datum* values;
  int count;
};

Times read_times(Datum array, bool null) {
  Times times{nullptr, 0};
  bool* nulls;
  if (!null)
    deconstruct_array(DatumGetArrayTypeP(array), TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
                      &times.values, &nulls, &times.count);
  return times;
}

Micros time_or_unknown(Datum value, bool null) {
  return null ? minus_infinity : DatumGetTimestampTz(value);
}

// A key as text, for the catalog. Types are checked to be PostgreSQL's own.
std::string value_text(const Cell& cell, const ValueType& type) {
  if (cell.null) return {};
  if (is_variable(type.type) && (type.type == Type::text || type.type == Type::bpchar))
    return std::string(cell.view());
  const char* text = call([&] {
    Oid output;
    bool variable;
    getTypeOutputInfo(type.oid, &output, &variable);
    return static_cast<const char*>(OidOutputFunctionCall(output, to_datum(cell, type)));
  });
  return text;
}

}  // namespace

void Watermarks::load() {
  Settings* found = nullptr;
  uint64_t count = 0;
  call([&] {
    MemoryContext memory = CurrentMemoryContext;
    if (SPI_execute_plan(
            kept_plan("SELECT s.relid, s.watermark_delay, s.idle_timeout, s.max_skew, a.attnum, q.watermark, "
                      "s.freeze_after "
                      "FROM tick_catalog.source AS s LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = "
                      "s.relid AND a.attname = s.watermark_by AND NOT a.attisdropped LEFT JOIN "
                      "tick_catalog.watermark_request AS q ON q.source = s.relid WHERE EXISTS (SELECT FROM "
                      "tick_catalog.rollup AS r WHERE r.source = s.relid)",
                      0, nullptr),
            nullptr, nullptr, true, 0) != SPI_OK_SELECT)
      elog(ERROR, "pg_tick: no sources");
    count = SPI_processed;
    found = static_cast<Settings*>(MemoryContextAllocZero(memory, sizeof(Settings) * (count + 1)));
    for (uint64_t row = 0; row < count; ++row) {
      Datum values[7];
      bool nulls[7];
      for (int i = 0; i < 7; ++i)
        values[i] = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i + 1, &nulls[i]);
      found[row].source = DatumGetObjectId(values[0]);
      found[row].rules = {interval_micros(DatumGetIntervalP(values[1])),
                          interval_micros(DatumGetIntervalP(values[2])),
                          interval_micros(DatumGetIntervalP(values[3]))};
      found[row].by = nulls[4] ? 0 : DatumGetInt16(values[4]);
      found[row].freezes = !nulls[6];
      found[row].freeze_after = nulls[6] ? 0 : interval_micros(DatumGetIntervalP(values[6]));
      found[row].asked = !nulls[5];
      found[row].watermark = nulls[5] ? 0 : DatumGetTimestampTz(values[5]);
    }
  });
  std::set<Oid> known;
  asked_ = false;
  for (uint64_t row = 0; row < count; ++row) {
    Source& source = sources_[found[row].source];
    known.insert(found[row].source);
    source.rules = found[row].rules;
    source.by = found[row].by;
    source.freeze_after = found[row].freezes ? std::make_optional(found[row].freeze_after) : std::nullopt;
    source.asked = found[row].asked ? std::make_optional(found[row].watermark) : std::nullopt;
    asked_ = asked_ || found[row].asked;
  }
  std::erase_if(sources_, [&](const auto& source) { return !known.contains(source.first); });
}

void Watermarks::read() {
  Relation table = call([&] { return table_open(catalog_relation("watermark"), RowExclusiveLock); });
  for (auto& [id, source] : sources_) {
    bool found = false;
    Datum values[column_count];
    bool nulls[column_count];
    Times ahead{}, times{}, arrivals{};
    Datum* names = nullptr;
    int name_count = 0;
    call([&] {
      HeapTuple tuple = read_row(table, "watermark_pkey", F_OIDEQ, ObjectIdGetDatum(id), &source.place);
      found = tuple != nullptr;
      if (!found) return;
      if (RelationGetDescr(table)->natts != column_count)
        elog(ERROR, "pg_tick: unexpected shape of tick_catalog.watermark");
      heap_deform_tuple(tuple, RelationGetDescr(table), values, nulls);
      ahead = read_times(values[column_ahead], nulls[column_ahead]);
      times = read_times(values[column_value_times], nulls[column_value_times]);
      arrivals = read_times(values[column_value_arrivals], nulls[column_value_arrivals]);
      bool* none;
      if (!nulls[column_value_names])
        deconstruct_array(DatumGetArrayTypeP(values[column_value_names]), TEXTOID, -1, false, TYPALIGN_INT,
                          &names, &none, &name_count);
    });
    EventTime time;
    source.rows = source.late = source.future = source.rejected = 0;
    source.rate = 0;
    if (found) {
      time.watermark = time_or_unknown(values[column_watermark], nulls[column_watermark]);
      time.max_time = time_or_unknown(values[column_max_time], nulls[column_max_time]);
      time.last_arrival = time_or_unknown(values[column_last_arrival], nulls[column_last_arrival]);
      source.rows = DatumGetInt64(values[column_rows]);
      source.rate = DatumGetFloat8(values[column_rate]);
      source.late = DatumGetInt64(values[column_late]);
      source.future = DatumGetInt64(values[column_future]);
      source.rejected = DatumGetInt64(values[column_rejected]);
      for (int i = 0; i < ahead.count; ++i) time.ahead.push_back(DatumGetTimestampTz(ahead.values[i]));
      const int complete = std::min({name_count, times.count, arrivals.count});
      for (int i = 0; source.by != 0 && i < complete; ++i) {
        const auto* name = reinterpret_cast<const text*>(DatumGetPointer(names[i]));
        time.values.push_back({std::string(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)),
                               DatumGetTimestampTz(times.values[i]),
                               DatumGetTimestampTz(arrivals.values[i])});
      }
      std::sort(time.values.begin(), time.values.end(),
                [](const EventTime::Value& a, const EventTime::Value& b) { return a.name < b.name; });
    }
    if (time.last_arrival == minus_infinity) source.reached = minus_infinity;  // tick.reset, say
    source.time = std::move(time);
    source.new_rows = source.new_late = source.new_future = source.new_rejected = 0;
    source.arrived = source.changed = false;
  }
  call([&] { table_close(table, NoLock); });
}

void Watermarks::settle(TimestampTz now, TimestampTz since, bool lagging, const std::vector<Oid>& arrived) {
  now_ = now;
  if (watching_since_ == 0) watching_since_ = now;
  const int64_t steady = steady_micros();
  const Micros idle_until = since != 0 ? std::min(now, since) : now;
  for (auto& [id, source] : sources_) {
    if (source.asked) {
      source.time.watermark = *source.asked;
      source.time.max_time = *source.asked + source.rules.delay;
      source.time.last_arrival = now;
      source.time.ahead.clear();
      source.time.values.clear();
      source.reached = minus_infinity;
      source.reached_at = steady;
      source.changed = true;
    }
    if (source.time.let_in(source.rules, now)) source.changed = true;
    const bool first = source.reached_at == 0;
    // A worker that has just started, and finds rows, has rows to catch up with.
    const bool behind = lagging || (first && std::find(arrived.begin(), arrived.end(), id) != arrived.end());
    // Up to which moment of the steady clock the walk is settled.
    const int64_t until = behind ? steady : std::max(source.reached_at, steady - (now - idle_until));
    source.moment =
        Moment{now, idle_until, first ? first_credit : until - source.reached_at, watching_since_, behind};
    source.reached =
        source.time.reach(source.rules, source.moment, std::max(source.reached, source.time.watermark));
    source.reached_at = until;
  }
}

std::optional<TimestampTz> Watermarks::of(Oid source) const {
  const auto known = sources_.find(source);
  if (known == sources_.end() || known->second.reached == minus_infinity) return std::nullopt;
  return known->second.reached;
}

std::optional<TimestampTz> Watermarks::frozen_before(Oid id) const {
  const auto known = sources_.find(id);
  if (known == sources_.end() || !known->second.freeze_after || known->second.reached == minus_infinity)
    return std::nullopt;
  return known->second.reached - *known->second.freeze_after;
}

// One row from the future must never move a watermark: decided once, here, for each pane.
void Watermarks::note(Oid id, const Fold& fold, bool recomputed) {
  const auto known = sources_.find(id);
  if (known == sources_.end()) return;
  Source& source = known->second;
  const Program& program = fold.program();
  const std::vector<int64_t>& rows = fold.partials(0).counts;
  int64_t late = 0, future = 0, rejected = 0;
  for (size_t slot = 0; slot < fold.slots(); ++slot) {
    const Micros time = fold.max_time(slot), pane = fold.pane(slot);
    const int64_t came = std::max<int64_t>(0, rows[slot]);  // what has left may be more
    if (pane == no_time_pane && program.time >= 0) rejected += came;
    if (time == minus_infinity) continue;
    source.time.note(source.rules, time, now_);
    // A pane tells of its newest row only; of the others it is known when the pane itself lies ahead.
    if (EventTime::is_ahead(source.rules, time, now_))
      future += EventTime::is_ahead(source.rules, pane, now_) ? came : 1;
    else if (pane + program.pane <= source.reached)
      late += came;
  }
  if (source.by != 0) note_values(source, fold);
  source.changed = true;
  if (recomputed) {
    if (source.time.last_arrival == minus_infinity) source.time.last_arrival = now_;
    return;
  }
  if (!source.arrived) source.quiet_since = source.time.last_arrival;
  source.arrived = true;
  source.time.last_arrival = std::max(source.time.last_arrival, now_);
  // Every group of the source has folded the same rows.
  source.new_rows = std::max(source.new_rows, fold.rows());
  source.new_late = std::max(source.new_late, late);
  source.new_future = std::max(source.new_future, future);
  source.new_rejected = std::max(source.new_rejected, rejected);
}

int64_t Watermarks::arrived() const {
  int64_t rows = 0;
  for (const auto& [id, source] : sources_) rows += source.new_rows;
  return rows;
}

// If the column is a key of this program, its panes say which value their rows belong to.
void Watermarks::note_values(Source& source, const Fold& fold) {
  const Program& program = fold.program();
  const Evaluator* evaluator = call([&] { return find_evaluator(program.id); });
  if (evaluator == nullptr) return;
  size_t k = 0;
  for (; k < program.keys.size(); ++k) {
    const int plain = evaluator->plain[program.keys[k]];
    if (plain >= 0 && evaluator->attribute[plain] == source.by) break;
  }
  if (k == program.keys.size()) return;
  const ValueType& type = evaluator->input_type[program.keys[k]];
  std::map<std::string, Micros, std::less<>> newest;  // by the bytes of the cell
  std::map<std::string, Cell, std::less<>> cells;
  std::string bytes;
  for (size_t slot = 0; slot < fold.slots(); ++slot) {
    const Micros time = fold.max_time(slot);
    if (time == minus_infinity || EventTime::is_ahead(source.rules, time, now_)) continue;
    const Cell cell = fold.key(slot, k);
    bytes.assign(1, cell.null ? 'n' : 'v');
    if (!cell.null && is_variable(type.type))
      bytes.append(cell.view());
    else if (!cell.null)
      bytes.append(reinterpret_cast<const char*>(&cell.word), sizeof cell.word);
    const auto known = newest.find(bytes);
    if (known != newest.end()) {
      known->second = std::max(known->second, time);
      continue;
    }
    newest.emplace(bytes, time);
    cells.emplace(bytes, cell);
  }
  for (const auto& [image, time] : newest)
    source.time.note_value(value_text(cells.at(image), type), time, now_);
}

std::optional<TimestampTz> Watermarks::after(Oid id) const {
  const auto known = sources_.find(id);
  if (known == sources_.end()) return std::nullopt;
  const Source& source = known->second;
  const Micros reached = source.time.reach(source.rules, source.moment, source.reached);
  return reached == minus_infinity ? std::nullopt : std::make_optional<TimestampTz>(reached);
}

std::optional<TimestampTz> Watermarks::stored(Oid id) const {
  const auto known = sources_.find(id);
  if (known == sources_.end() || known->second.time.watermark == minus_infinity) return std::nullopt;
  return known->second.time.watermark;
}

void Watermarks::touch(Oid source) {
  const auto known = sources_.find(source);
  if (known != sources_.end()) known->second.changed = true;
}

void Watermarks::write() {
  if (std::none_of(sources_.begin(), sources_.end(), [](const auto& s) { return s.second.changed; })) return;
  if (asked_) call([&] { SPI_execute("DELETE FROM tick_catalog.watermark_request", false, 0); });
  Relation table = call([&] { return table_open(catalog_relation("watermark"), RowExclusiveLock); });
  for (auto& [id, source] : sources_) {
    if (!source.changed) continue;
    EventTime& time = source.time;
    time.watermark = after(id).value_or(minus_infinity);
    if (source.arrived) {
      const double quiet =
          source.quiet_since == minus_infinity
              ? 3000
              : std::clamp(static_cast<double>(now_ - source.quiet_since) / 1e6, 0.0, 3000.0);
      source.rate =
          source.rate * std::exp(-quiet / rate_seconds) + static_cast<double>(source.new_rows) / rate_seconds;
    }
    const size_t ahead = time.ahead.size(), values = time.values.size();
    const EventTime::Value* value = time.values.data();
    call([&] {
      Datum row[column_count] = {};
      bool nulls[column_count] = {};
      const auto put_time = [&](Column column, Micros at) {
        row[column] = TimestampTzGetDatum(at);
        nulls[column] = at == minus_infinity;
      };
      const auto array = [&](Datum* elements, size_t count, Oid type) {
        const bool is_text = type == TEXTOID;
        return PointerGetDatum(construct_array(elements, static_cast<int>(count), type, is_text ? -1 : 8,
                                               is_text ? false : FLOAT8PASSBYVAL,
                                               is_text ? TYPALIGN_INT : TYPALIGN_DOUBLE));
      };
      row[column_source] = ObjectIdGetDatum(id);
      put_time(column_watermark, time.watermark);
      put_time(column_max_time, time.max_time);
      put_time(column_last_arrival, time.last_arrival);
      row[column_rows] = Int64GetDatum(source.rows + source.new_rows);
      row[column_rate] = Float8GetDatum(source.rate);
      row[column_late] = Int64GetDatum(source.late + source.new_late);
      row[column_future] = Int64GetDatum(source.future + source.new_future);
      row[column_rejected] = Int64GetDatum(source.rejected + source.new_rejected);
      auto* elements = static_cast<Datum*>(palloc(sizeof(Datum) * (std::max(ahead, values) + 1)));
      for (size_t i = 0; i < ahead; ++i) elements[i] = TimestampTzGetDatum(time.ahead[i]);
      nulls[column_ahead] = ahead == 0;
      if (ahead > 0) row[column_ahead] = array(elements, ahead, TIMESTAMPTZOID);
      nulls[column_value_names] = nulls[column_value_times] = nulls[column_value_arrivals] = values == 0;
      if (values > 0) {
        for (size_t i = 0; i < values; ++i)
          elements[i] = varlena_datum(value[i].name.data(), value[i].name.size());
        row[column_value_names] = array(elements, values, TEXTOID);
        for (size_t i = 0; i < values; ++i) elements[i] = TimestampTzGetDatum(value[i].max_time);
        row[column_value_times] = array(elements, values, TIMESTAMPTZOID);
        for (size_t i = 0; i < values; ++i) elements[i] = TimestampTzGetDatum(value[i].last_arrival);
        row[column_value_arrivals] = array(elements, values, TIMESTAMPTZOID);
      }
      HeapTuple tuple = heap_form_tuple(RelationGetDescr(table), row, nulls);
      write_row(table, tuple, &source.place);
    });
  }
  call([&] { table_close(table, NoLock); });
}

void Watermarks::committed() {
  if (asked_)
    for (auto& [id, source] : sources_) source.asked.reset();
  asked_ = false;
}

TimestampTz Watermarks::due(Oid id, TimestampTz goal) const {
  const auto known = sources_.find(id);
  if (known == sources_.end()) return plus_infinity;
  const Source& source = known->second;
  return source.time.due(source.rules, source.moment, std::max(source.reached, source.time.watermark), goal);
}

}  // namespace tick::pg
