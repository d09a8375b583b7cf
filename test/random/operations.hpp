// What the writers of the random test do: statements against a source, each with its mirror on the shadow
// table, which has no trigger of anybody and remembers every row ever committed. Kinds can be switched on and
// off in one table. Promise: what a script does depends on the seed, the writer and the shape of the source
// alone; who goes first does not.
#pragma once

#include <time.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "shapes.hpp"

namespace tick::random {

enum Kind {
  insert,
  copy,
  leaf_insert,
  late,
  future,
  duplicate,
  update_values,
  update_time,
  update_key,
  update_nothing,
  erase,
  erase_range,
  merge,
  savepoint_rollback,
  savepoint_release,
  exception_block,
  rollback,
  commit_prepared,
  rollback_prepared,
  read_committed,
  repeatable_read,
  serializable,
  create_partition,
  attach_partition,
  attach_rows,
  detach_partition,
  drop_partition,
  create_rollup,
  create_child,
  drop_rollup,
  alter_rollup,
  seed_rollup,
  forget_key,
  rename_key,
  refresh_rollup,
  truncate,
  vacuum,
  add_column,
  drop_column,
  kinds
};

struct KindInfo {
  const char* name;
  int weight;  // how often it is drawn; 0: it comes about by itself, or is switched off
  int least;   // with effect in a run of 10,000 operations

  long effect = 0;

  void report(bool too_few) const {
    std::printf("  %-28s %6ld with effect%s\n", name, effect, too_few ? ": too few" : "");
  }
};

// The switches. A kind with weight 0 and least 0 is off.
inline std::array<KindInfo, kinds> table = {{
    {"INSERT", 180, 50},
    {"COPY", 120, 50},
    {"INSERT into a partition", 40, 50},
    {"late rows", 60, 50},
    {"future rows", 35, 50},
    {"duplicate rows", 45, 50},
    {"UPDATE of values", 90, 50},
    {"UPDATE of the time", 60, 50},
    {"UPDATE of a key", 60, 50},
    {"UPDATE of nothing", 25, 50},
    {"DELETE", 70, 50},
    {"DELETE of a range", 20, 50},
    {"MERGE", 60, 50},
    {"savepoint rolled back", 60, 50},
    {"savepoint released", 60, 50},
    {"exception block", 45, 50},
    {"ROLLBACK", 0, 50},
    {"COMMIT PREPARED", 0, 50},
    {"ROLLBACK PREPARED", 0, 50},
    {"READ COMMITTED", 0, 50},
    {"REPEATABLE READ", 0, 50},
    {"SERIALIZABLE", 0, 50},
    {"CREATE partition", 30, 50},
    {"ATTACH partition", 30, 50},
    {"ATTACH partition with rows", 30, 50},
    {"DETACH partition", 40, 50},
    {"DROP partition", 40, 50},
    {"create_rollup", 8, 50},
    {"create_rollup over a rollup", 26, 50},
    {"drop_rollup", 32, 50},
    {"alter_rollup", 32, 50},
    {"seed", 30, 50},
    {"forget", 12, 50},
    {"rename_key", 16, 50},
    {"refresh", 20, 50},
    {"TRUNCATE refused", 15, 50},
    {"VACUUM", 17, 50},
    {"ADD COLUMN", 20, 50},
    {"DROP COLUMN", 34, 50},
}};

class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}
  int below(int bound) { return static_cast<int>(random_() % static_cast<uint64_t>(bound)); }
  int between(int least, int most) { return least + below(most - least + 1); }
  bool chance(int percent) { return below(100) < percent; }
  template <typename List>
  const auto& pick(const List& list) {
    return list[static_cast<size_t>(below(static_cast<int>(list.size())))];
  }

 private:
  std::mt19937_64 random_;
};

struct Step {
  std::string sql;
  std::string data = {};  // of a COPY
  int kind = -1;          // counted with effect when the script commits and rows were touched
  bool certain = false;   // ... or even if it says nothing of rows
  bool fails = false;     // has its effect by being refused
  bool may_fail = false;  // may be refused, without effect
};

using Batch = std::vector<Step>;  // sent as one string

struct Script {
  std::vector<Batch> batches;
  bool creates = false;           // a rollup, or columns of one
  std::vector<std::string> made;  // while it creates: nobody drops them
  bool leaves = false;            // rows leave the table
  bool definition = false;        // one at a time
  std::string prepared;           // what it leaves behind
  std::string resolved;           // what it ends
};

constexpr int slice = 600;  // seconds of a partition

struct Partition {
  int index = 0;
  bool attached = true;
};

// A source, its shadow and what the driver knows of them.
struct Source {
  std::string name, shadow;
  bool partitioned = false;
  bool hashed = false;   // partitions are partitioned again
  bool special = false;  // NaN and infinities
  int clock = 0;         // event time, seconds since the base
  int next_partition = 0;
  std::vector<Partition> partitions;
  std::vector<std::string> extra;  // columns nobody reads
  int next_column = 0;

  std::string old() const { return name + "_old"; }  // rows of before, of which seeds are made
  std::string leaf(int index) const { return name + "_p" + std::to_string(index); }
};

inline const std::string columns = "id, sym, venue, ts, seq, price, qty, amount, n, note, flag";
inline const std::string column_types =
    "id int8, sym text, venue text, ts timestamptz, seq int4, price float8, qty float8, amount numeric, n "
    "int4,"
    " note text, flag bool";

inline std::string time_text(int seconds, int quarter) {
  char text[64];
  std::snprintf(text, sizeof text, "2024-03-%02d %02d:%02d:%02d.%02d+00", 1 + seconds / 86400,
                seconds / 3600 % 24, seconds / 60 % 60, seconds % 60, quarter * 25);
  return text;
}

inline std::string bounds(int index) {
  return " FOR VALUES FROM ('" + time_text(index * slice, 0) + "') TO ('" +
         time_text((index + 1) * slice, 0) + "')";
}

// What keeps a table in order. Nothing that locks everybody out of the extension's own.
inline std::string upkeep(const std::string& on, Dice& dice) {
  static const std::vector<std::string> ways = {"VACUUM ",           "VACUUM (FREEZE) ", "VACUUM FULL ",
                                                "VACUUM (ANALYZE) ", "ANALYZE ",         "REINDEX TABLE "};
  return (on.starts_with("tick_catalog") ? "VACUUM " : dice.pick(ways)) + on;
}

// A few rows of the times of partition `index` into a table and the shadow.
inline std::string new_rows(const std::string& leaf, const std::string& shadow, int index, Dice& dice) {
  const std::string step = std::to_string(dice.between(7, 90));
  return "WITH r AS (INSERT INTO " + leaf + " (" + columns + ") SELECT nextval('ids'), 'S' || g % 5, " +
         "(ARRAY['X', 'Y', 'z', NULL])[1 + g % 4], timestamptz '" + time_text(index * slice, 0) +
         "' + (g * " + step + " % " + std::to_string(slice) +
         ") * interval '1 s', g % 6, 100 + g * 0.125, 1 + g % 3, " +
         "g * 0.01, g % 10, CASE WHEN g % 3 > 0 THEN 'a' END, g % 2 = 0 FROM generate_series(0, " +
         std::to_string(dice.below(12)) + ") AS g RETURNING " + columns + ") INSERT INTO " + shadow + " (" +
         columns + ") SELECT " + columns + " FROM r";
}

// A key goes or gets another name, in all rows there ever were. Nothing if that would be none.
inline Batch change_key(const Source& source, Kind kind, Dice& dice) {
  static const std::vector<std::string> venues = {"X", "Y", "z"};
  const bool by_venue = dice.chance(25);
  const std::string column = by_venue ? "venue" : "sym";
  const std::string value = by_venue ? dice.pick(venues) : "S" + std::to_string(dice.below(5));
  const std::string where = " WHERE " + column + " = '" + value + "'";
  const auto key = [&](const std::string& of) { return "'{\"" + column + "\": \"" + of + "\"}'"; };
  const std::string of = "('" + source.name + "', " + key(value);
  // What does not group by the key is corrected by deltas.
  std::string others = "-1";
  for (size_t i = 0; i < shapes().size(); ++i)
    if (!shapes()[i].groups_by(column)) others += ", " + std::to_string(i);
  const Step loose{"UPDATE births SET loose = true WHERE shape IN (" + others + ")"};
  if (kind == forget_key) {
    std::string range, within;
    if (dice.chance(25)) {
      const std::string from = time_text(dice.below(source.clock + 1) / 3600 * 3600, 0);
      range = ", '" + from + "'";
      within = " AND ts >= '" + from + "' AND ts < 'infinity'";
    }
    return {{"BEGIN"},
            {"SELECT tick.forget" + of + range + ")", "", kind, true, false, true},
            {"DELETE FROM " + source.shadow + where + within},
            {"DELETE FROM " + source.old() + where + within},
            loose,
            {"COMMIT"}};
  }
  const std::string other = dice.chance(40) ? (by_venue ? "Y" : "S1") : value + "r";
  if (other == value) return {};
  const std::string set = " SET " + column + " = '" + other + "'" + where;
  return {{"BEGIN"},
          {"SELECT tick.rename_key" + of + ", " + key(other) + ")", "", kind, true, false, true},
          {"UPDATE " + source.shadow + set},
          {"UPDATE " + source.old() + set},
          loose,
          {"COMMIT"}};
}

// The operations of one writer.
class Author {
 public:
  Author(uint64_t seed, int writer) : dice(seed), writer_(writer) {}

  Dice dice;

  // A transaction of a few operations.
  Script transaction(const Source& source, const std::vector<int>& allowed, int& operations);

 private:
  struct Row {
    std::vector<std::string> fields;  // null_text for NULL
  };

  std::string next_id() { return std::to_string((writer_ + 1) * 100'000'000L + ++last_id_); }
  int draw(const std::vector<int>& allowed);
  Row row(const Source& source, Kind kind);
  std::vector<Row> rows(const Source& source, Kind kind, int count);
  void operation(const Source& source, Kind kind, Batch& steps, int depth);
  void put_rows(const Source& source, const std::string& table, const std::vector<Row>& rows, int kind,
                Batch& steps);
  void put_copy(const Source& source, const std::string& table, const std::vector<Row>& rows, int kind,
                Batch& steps);
  void put_update(const Source& source, const std::string& set, int kind, Batch& steps);
  void put_merge(const Source& source, Batch& steps);
  std::string some_rows();

  int writer_;
  long last_id_ = 0;
};

inline std::string quoted(const std::string& field) {
  return field == "\\N" ? "NULL" : "'" + field + "'";
}

inline std::string values(const std::vector<std::vector<std::string>>& rows) {
  std::string text;
  for (const auto& row : rows) {
    text += text.empty() ? "(" : ", (";
    for (size_t i = 0; i < row.size(); ++i) text += (i == 0 ? "" : ", ") + quoted(row[i]);
    text += ")";
  }
  return text;
}

inline int Author::draw(const std::vector<int>& allowed) {
  int sum = 0;
  for (int kind : allowed) sum += table[kind].weight;
  int at = dice.below(sum);
  for (int kind : allowed)
    if ((at -= table[kind].weight) < 0) return kind;
  return allowed.back();
}

inline Author::Row Author::row(const Source& source, Kind kind) {
  static const std::vector<std::string> symbols = {"S0", "S1", "S2", "S3", "S4"};
  static const std::vector<std::string> venues = {"X", "Y", "z", "\\N"};
  static const std::vector<std::string> flags = {"t", "f", "t", "f", "\\N"};
  static const std::vector<std::string> notes = {"a", "b", "bb", "Z", "\\N", "it''s", "0"};
  static const std::vector<std::string> odd = {"NaN", "Infinity", "-Infinity", "-0"};
  std::string ts;
  if (kind == future) {
    // Ahead of the clock by at most an hour.
    const time_t at = time(nullptr) + dice.between(1, 3600);
    tm parts;
    gmtime_r(&at, &parts);
    char text[64];
    strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S+00", &parts);
    ts = text;
  } else if (kind == late) {
    ts = time_text(dice.below(std::max(60, source.clock)), dice.below(4));
  } else if (dice.chance(1)) {
    ts = dice.chance(50) ? "\\N" : dice.chance(50) ? "infinity" : "-infinity";
  } else {
    ts = time_text(std::max(0, source.clock - dice.below(90)), dice.below(4));
  }
  const auto decimal = [&](int unit, int most, int nulls) -> std::string {
    if (dice.chance(nulls)) return "\\N";
    char text[32];
    std::snprintf(text, sizeof text, "%.10g", dice.between(1, most) / static_cast<double>(unit));
    return text;
  };
  const auto floating = [&](int unit, int most) -> std::string {
    if (source.special && dice.chance(2)) return dice.pick(odd);
    return decimal(unit, most, 5);
  };
  std::string note = dice.pick(notes);
  if (note == "it''s") note = "its";
  return {{next_id(), dice.pick(symbols), dice.pick(venues), ts,
           dice.chance(15) ? "\\N" : std::to_string(dice.below(6)), floating(8, 800), floating(16, 160),
           decimal(100, 100000, 6), std::to_string(dice.below(10)), note, dice.pick(flags)}};
}

inline std::vector<Author::Row> Author::rows(const Source& source, Kind kind, int count) {
  std::vector<Row> result;
  for (int i = 0; i < count; ++i) result.push_back(row(source, kind));
  return result;
}

inline void Author::put_rows(const Source& source, const std::string& into, const std::vector<Row>& rows,
                             int kind, Batch& steps) {
  std::vector<std::vector<std::string>> fields;
  for (const Row& one : rows) fields.push_back(one.fields);
  const std::string list = values(fields);
  if (dice.chance(50)) {
    steps.push_back({"INSERT INTO " + into + " (" + columns + ") VALUES " + list, "", kind});
    steps.push_back({"INSERT INTO " + source.shadow + " (" + columns + ") VALUES " + list});
  } else {
    steps.push_back({"WITH r AS (INSERT INTO " + into + " (" + columns + ") VALUES " + list + " RETURNING " +
                         columns + ") INSERT INTO " + source.shadow + " (" + columns + ") SELECT " + columns +
                         " FROM r",
                     "", kind});
  }
}

inline void Author::put_copy(const Source& source, const std::string& into, const std::vector<Row>& rows,
                             int kind, Batch& steps) {
  std::string data;
  for (const Row& one : rows)
    for (size_t i = 0; i < one.fields.size(); ++i)
      data += one.fields[i] + (i + 1 == one.fields.size() ? "\n" : "\t");
  steps.push_back({"COPY " + into + " (" + columns + ") FROM STDIN", data, kind});
  steps.push_back({"COPY " + source.shadow + " (" + columns + ") FROM STDIN", data});
}

// A few of the rows there are.
inline std::string Author::some_rows() {
  const int of = dice.between(40, 160);
  return "id % " + std::to_string(of) + " = " + std::to_string(dice.below(of));
}

// All columns of the shadow's row, from those of `row`.
inline std::string mirrored(const std::string& row) {
  return "(sym, venue, ts, seq, price, qty, amount, n, note, flag) = (SELECT " + row + ".sym, " + row +
         ".venue, " + row + ".ts, " + row + ".seq, " + row + ".price, " + row + ".qty, " + row + ".amount, " +
         row + ".n, " + row + ".note, " + row + ".flag)";
}

inline void Author::put_update(const Source& source, const std::string& set, int kind, Batch& steps) {
  steps.push_back({"WITH u AS (UPDATE " + source.name + " SET " + set + " WHERE " + some_rows() +
                       " RETURNING " + columns + ") UPDATE " + source.shadow + " AS s SET " + mirrored("u") +
                       " FROM u WHERE s.id = u.id",
                   "", kind});
}

// Updates some rows, deletes others, inserts new ones. Which rows are there is settled by locking them first.
inline void Author::put_merge(const Source& source, Batch& steps) {
  std::vector<std::vector<std::string>> fresh;
  std::string ids;
  for (const Row& one : rows(source, insert, dice.between(1, 3))) {
    fresh.push_back(one.fields);
    ids += (ids.empty() ? "" : ", ") + one.fields[0];
  }
  const std::string mine = "(SELECT id FROM staged WHERE xact = pg_current_xact_id())";
  steps.push_back({"INSERT INTO staged SELECT pg_current_xact_id(), id FROM " + source.name + " WHERE " +
                   some_rows() + " FOR UPDATE"});
  std::string fields, given;
  for (size_t at = 0; at < columns.size();) {
    const size_t end = std::min(columns.find(", ", at), columns.size());
    fields += (fields.empty() ? "v." : ", v.") + columns.substr(at, end - at);
    at = end + 2;
  }
  steps.push_back({"MERGE INTO " + source.name +
                       " AS t USING (SELECT id, sym, venue, ts, seq, price, qty, amount, n,"
                       " note, flag FROM " +
                       source.name + " WHERE id IN " + mine +
                       " UNION ALL SELECT id::int8, sym, venue,"
                       " ts::timestamptz, seq::int4, price::float8, qty::float8, amount::numeric, n::int4, "
                       "note, flag::bool"
                       " FROM (VALUES " +
                       values(fresh) + ") AS f (" + columns +
                       ")) AS v ON t.id = v.id"
                       " WHEN MATCHED AND t.n < 3 THEN DELETE"
                       " WHEN MATCHED THEN UPDATE SET price = v.price + 0.5, qty = v.qty, note = 'm'"
                       " WHEN NOT MATCHED THEN INSERT (" +
                       columns + ") VALUES (" + fields + ")",
                   "", merge});
  // In place: a concurrent UPDATE that waits for one of these rows must find its mirror.
  steps.push_back({"UPDATE " + source.shadow + " AS s SET " + mirrored("t") + " FROM " + source.name +
                   " AS t WHERE s.id = t.id AND s.id IN " + mine});
  steps.push_back({"DELETE FROM " + source.shadow + " WHERE id IN " + mine +
                   " AND id NOT IN (SELECT id FROM " + source.name + ")"});
  steps.push_back({"INSERT INTO " + source.shadow + " (" + columns + ") SELECT " + columns + " FROM " +
                   source.name + " WHERE id IN (" + ids + ")"});
  steps.push_back({"DELETE FROM staged WHERE xact = pg_current_xact_id()"});
}

inline void Author::operation(const Source& source, Kind kind, Batch& steps, int depth) {
  const int number = dice.below(1000);
  switch (kind) {
    case insert:
    case late:
    case future: {
      const int count = dice.chance(80) ? dice.between(1, 3) : dice.between(4, 12);
      put_rows(source, source.name, rows(source, kind, count), kind, steps);
      break;
    }
    case copy:
      put_copy(source, source.name, rows(source, kind, dice.between(1, 10)), kind, steps);
      break;
    case leaf_insert: {
      std::vector<int> attached;
      for (const Partition& partition : source.partitions)
        if (partition.attached) attached.push_back(partition.index);
      if (attached.empty()) {
        put_rows(source, source.name, rows(source, insert, 1), insert, steps);
        break;
      }
      const int index = dice.pick(attached);
      std::vector<Row> list = rows(source, insert, dice.between(1, 4));
      for (Row& one : list) one.fields[3] = time_text(index * slice + dice.below(slice), dice.below(4));
      if (dice.chance(50))
        put_rows(source, source.leaf(index), list, kind, steps);
      else
        put_copy(source, source.leaf(index), list, kind, steps);
      break;
    }
    case duplicate:
      steps.push_back(
          {"WITH r AS (INSERT INTO " + source.name + " (" + columns +
               ") SELECT nextval('ids'), sym, venue, ts, seq, price, qty, amount, n, note, flag FROM " +
               source.name + " WHERE " + some_rows() + " LIMIT 3 RETURNING " + columns + ") INSERT INTO " +
               source.shadow + " (" + columns + ") SELECT " + columns + " FROM r",
           "", kind});
      break;
    case update_values: {
      static const std::vector<std::string> sets = {
          "price = price + 0.125",    "price = NULL",         "qty = qty * 2, amount = amount - 0.01",
          "flag = NOT flag",          "n = (n + 1) % 10",     "note = note || 'u'",
          "seq = 5 - seq, price = 3", "amount = 12.5, n = 2", "price = 1000 - price, qty = 1"};
      put_update(source, dice.pick(sets), kind, steps);
      break;
    }
    case update_time:
      put_update(source, "ts = ts + interval '" + std::to_string(dice.between(-900, 900)) + " s'", kind,
                 steps);
      break;
    case update_key:
      put_update(
          source,
          dice.chance(50) ? "sym = 'S" + std::to_string(dice.below(6)) + "'" : "venue = nullif(sym, 'S1')",
          kind, steps);
      break;
    case update_nothing:
      put_update(source, dice.chance(50) ? "price = price, qty = qty" : "id = id", kind, steps);
      break;
    case erase:
      steps.push_back({"WITH d AS (DELETE FROM " + source.name + " WHERE " + some_rows() +
                           " RETURNING id) DELETE FROM " + source.shadow + " AS s USING d WHERE s.id = d.id",
                       "", kind});
      break;
    case erase_range: {
      const int from = dice.below(std::max(60, source.clock)) / 60 * 60;
      steps.push_back({"WITH d AS (DELETE FROM " + source.name + " WHERE ts >= '" + time_text(from, 0) +
                           "' AND ts < '" + time_text(from + 60, 0) + "'" +
                           (number % 2 == 0 ? " AND sym < 'S2'" : "") + " RETURNING id) DELETE FROM " +
                           source.shadow + " AS s USING d WHERE s.id = d.id",
                       "", kind});
      break;
    }
    case merge:
      put_merge(source, steps);
      break;
    case savepoint_rollback:
    case savepoint_release: {
      const std::string name = "s" + std::to_string(depth);
      const Kind inner = dice.chance(40) ? dice.chance(50) ? update_values : erase : insert;
      const size_t from = steps.size();
      steps.push_back({"SAVEPOINT " + name});
      operation(source, inner, steps, depth + 1);
      const size_t last = steps.size() - 1;
      if (depth < 2 && dice.chance(40))
        operation(source, dice.chance(50) ? savepoint_rollback : savepoint_release, steps, depth + 1);
      if (kind == savepoint_rollback) {
        for (size_t at = from; at < steps.size(); ++at) steps[at].kind = -1;
        steps.push_back({"ROLLBACK TO " + name});
      }
      steps[last].kind = kind;
      if (kind == savepoint_release || dice.chance(50)) steps.push_back({"RELEASE " + name});
      break;
    }
    case exception_block: {
      Batch inside;
      put_rows(source, source.name, rows(source, insert, dice.between(1, 3)), kind, inside);
      if (dice.chance(30)) put_update(source, "qty = 2", kind, inside);
      std::string body;
      for (const Step& step : inside) body += step.sql + "; ";
      if (dice.chance(60)) body += "PERFORM 1 / (SELECT 0); ";
      steps.push_back(
          {"DO $do$ BEGIN BEGIN " + body + "EXCEPTION WHEN division_by_zero THEN NULL; END; END $do$", "",
           kind, true});
      break;
    }
    default:
      break;
  }
}

inline Script Author::transaction(const Source& source, const std::vector<int>& allowed, int& operations) {
  Script script;
  Batch steps;
  const int level = dice.below(100);
  steps.push_back({level < 60   ? "BEGIN"
                   : level < 82 ? "BEGIN ISOLATION LEVEL REPEATABLE READ"
                                : "BEGIN ISOLATION LEVEL SERIALIZABLE",
                   "",
                   level < 60   ? read_committed
                   : level < 82 ? repeatable_read
                                : serializable,
                   true});
  const int count = dice.chance(50) ? 1 : dice.between(2, 4);
  for (int i = 0; i < count; ++i) {
    const auto kind = static_cast<Kind>(draw(allowed));

    operation(source, kind, steps, 0);
  }
  operations += count;
  const int end = dice.below(100);
  if (end < 6) {
    for (Step& step : steps) step.kind = -1;
    steps.push_back({"ROLLBACK", "", rollback, true});
  } else if (end < 14) {
    script.prepared = source.name + "_" + std::to_string(writer_) + "_" + next_id();
    steps.push_back({"PREPARE TRANSACTION '" + script.prepared + "'"});
  } else {
    steps.push_back({"COMMIT"});
  }
  if (dice.chance(60)) {
    script.batches.push_back(steps);
  } else {
    for (Step& step : steps) script.batches.push_back({step});
  }
  return script;
}

}  // namespace tick::random
