// The rollups of the random test and what they must hold: each shape is written once as the query
// tick.create_rollup gets and once with PostgreSQL's built-in functions alone, over a table that remembers
// every row ever committed. Sums of the values used here are exact in float8, whatever the order, so that all
// but deviations are compared exactly.
#pragma once

#include <cstring>
#include <string>
#include <vector>

namespace tick::random {

struct Column {
  std::string name;
  std::string rollup;
  std::string oracle;
  bool rounded = false;    // PostgreSQL's own aggregate rounds at every step: compared with a tolerance
  std::string parts = {};  // what tick.seed needs besides, as items of a select list

  // Whether what has left can be taken out of it without the other rows.
  bool subtracts() const {
    for (const char* extremum : {"tick.first(", "tick.last(", "min(", "max("})
      if (rollup.find(extremum) != std::string::npos) return false;
    return true;
  }
};

struct Shape {
  std::vector<Column> keys;
  int window = 0;  // seconds; 0: none
  std::string where;
  std::vector<Column> columns;
  int slide = 0;          // seconds; 0: tumbling
  std::string zone = {};  // the windows are hours of this time zone
  bool computed = false;  // by the query itself, over what was touched
  bool seeds = false;     // with `parts`, it can be seeded
  bool grows = false;     // windows are an hour's, one more at each `window`

  // The time from which on a window has rows.
  std::string rows_from(const std::string& label) const {
    return grows ? label.substr(0, std::strlen("2024-03-01 10:")) + "00:00+00" : label;
  }
  bool groups_by(const std::string& column) const {
    for (const Column& key : keys)
      if (key.rollup == column) return true;
    return false;
  }
};

inline Column same(const std::string& name, const std::string& expression) {
  return {name, expression, expression, false};
}

inline Column rounded(const std::string& name, const std::string& expression) {
  return {name, expression, expression, true};
}

// The extremum by time, and where it is: the value, its time, and what comes after the time.
inline Column edge(const std::string& name, const std::string& function, const std::string& value,
                   const std::string& by, const std::string& order) {
  const auto at = [&](const std::string& what) {
    return "(array_agg(" + what + " ORDER BY " + order + ") FILTER (WHERE " + value +
           " IS NOT NULL AND ts IS NOT NULL))[1]";
  };
  return {name, function + "(" + value + ", ts" + (by.empty() ? "" : ", " + by) + ")", at(value), false,
          at("ts") + " AS " + name + "_order" + (by.empty() ? "" : ", " + at(by) + " AS " + name + "_seq")};
}

inline Column first(const std::string& name, const std::string& value, const std::string& by = "seq") {
  return edge(name, "tick.first", value, by, "ts, " + (by.empty() ? "" : by + " NULLS FIRST, ") + value);
}

inline Column last(const std::string& name, const std::string& value, const std::string& by = "seq") {
  return edge(name, "tick.last", value, by,
              "ts DESC, " + (by.empty() ? "" : by + " DESC NULLS LAST, ") + value + " DESC");
}

// An average, and what it is made of.
inline Column mean(const std::string& name, const std::string& value) {
  return {name, "avg(" + value + ")", "avg(" + value + ")", false,
          "sum(" + value + ") AS " + name + "_sum, count(" + value + ") AS " + name + "_count"};
}

inline const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {{same("sym", "sym")},
       60,
       "",
       {first("open", "price"),
        same("high", "max(price)"),
        same("low", "min(price)"),
        last("close", "price"),
        same("volume", "sum(qty)"),
        same("trades", "count(*)"),
        {"vwap", "sum(price * qty) / nullif(sum(qty), 0)", "sum(price * qty) / nullif(sum(qty), 0)", false,
         "sum(price * qty) AS vwap_sum"}},
       0,
       "",
       false,
       true},
      {{same("sym", "sym")},
       300,
       "",
       {first("open", "price"), last("close", "price"), same("mean", "avg(price)"),
        rounded("spread", "stddev(price)"), rounded("variance", "var_pop(qty)"), same("n", "count(price)"),
        same("bought", "sum(qty) FILTER (WHERE flag)"), same("sold", "count(*) FILTER (WHERE NOT flag)")}},
      {{same("sym", "sym"), same("venue", "venue")},
       60,
       "",
       {same("total", "sum(amount)"), same("mean", "avg(amount)"), same("lowest", "min(amount)"),
        same("highest", "max(amount)"), rounded("spread", "stddev(amount)"), same("known", "count(amount)"),
        last("latest", "amount")}},
      {{same("sym", "sym")},
       0,
       "",
       {last("price", "price"), last("at", "ts"), same("trades", "count(*)"), same("high", "max(price)"),
        same("volume", "sum(qty)")}},
      {{same("place", "upper(venue) || sym"), same("rest", "n % 3")},
       120,
       "qty > 1 AND flag IS NOT FALSE",
       {same("twice", "sum(qty * 2)"), same("n", "sum(n)"), same("mean", "avg(n)"),
        rounded("spread", "stddev_pop(n)"), same("top", "max(price - qty)"), last("note", "note", "")}},
      {{},
       0,
       "",
       {same("trades", "count(*)"), same("total", "sum(amount)"), same("volume", "sum(qty)"),
        same("newest", "max(ts)")}},
      {{same("venue", "venue"), same("flag", "flag")},
       600,
       "venue IS NOT NULL OR n < 7",
       {same("lowest", "min(note)"), same("highest", "max(note)"), first("first_note", "note"),
        last("last_note", "note"), same("earliest", "min(ts)"), same("latest", "max(ts)"),
        same("all_rows", "count(*)"), same("doubled", "2 * count(note) + 1")}},
      {{same("sym", "sym")},
       3600,
       "",
       {first("open", "price"), same("high", "max(price)"), same("low", "min(price)"), last("close", "price"),
        same("volume", "sum(qty)"), same("total", "sum(amount)")},
       0,
       "",
       false,
       true},
      {{},
       60,
       "n > 2",
       {same("n", "sum(n::bigint)"), same("small", "min(n)"), same("large", "max(n)"),
        rounded("spread", "variance(n)"), same("mean", "avg(amount) FILTER (WHERE n > 5)"),
        same("range", "max(price) - min(price)")}},
      {{same("sym", "sym")},
       300,
       "",
       {first("open", "price"), same("high", "max(price)"), last("close", "price"),
        same("volume", "sum(qty)"), same("trades", "count(*)"), mean("mean", "amount")},
       60,
       "",
       false,
       true},
      {{same("sym", "sym")},
       3600,
       "",
       {first("open", "price"), same("high", "max(price)"), last("close", "price"),
        same("volume", "sum(qty)"), rounded("spread", "stddev(amount)")},
       0,
       "Asia/Kolkata"},
      {{same("sym", "sym")},
       120,
       "n IS NOT NULL",
       {same("middle", "percentile_cont(0.5) WITHIN GROUP (ORDER BY amount::float8)"),
        same("venues", "count(DISTINCT venue)"), same("notes", "string_agg(note, ',' ORDER BY note)"),
        same("rows", "count(*)")},
       0,
       "",
       true},
      {{same("sym", "sym")},
       600,
       "",
       {first("open", "price"), same("high", "max(price)"), last("close", "price"),
        same("volume", "sum(qty)"), same("trades", "count(*)"), rounded("spread", "stddev(price)")},
       0,
       "",
       false,
       false,
       true},
  };
  return all;
}

// What tick.alter_rollup adds to a rollup that stands.
inline const std::vector<Column>& additions() {
  static const std::vector<Column> all = {
      same("many", "count(n)"),          same("most", "max(qty)"),
      same("average", "avg(amount)"),    same("product", "sum(price * qty)"),
      last("remark", "note", ""),        same("flagged", "count(*) FILTER (WHERE flag)"),
      rounded("width", "stddev(price)"),
  };
  return all;
}

inline std::string select_list(const Shape& shape, bool oracle) {
  std::string list;
  const auto add = [&](const Column& column) {
    list += (list.empty() ? "" : ", ") + (oracle ? column.oracle : column.rollup) + " AS " + column.name;
  };
  for (const Column& key : shape.keys) add(key);
  if (shape.window != 0) {
    const std::string size = "'" + std::to_string(shape.window) + " seconds'";
    const std::string slide = "interval '" + std::to_string(shape.slide) + " seconds'";
    const std::string bin = shape.zone.empty() ? "date_bin(" + size + ", ts, '2000-01-01 00:00+00')"
                                               : "date_trunc('hour', ts, '" + shape.zone + "')";
    const std::string in_zone = shape.zone.empty() ? "" : ", '" + shape.zone + "'";
    const std::string last = "date_bin(" + slide + ", ts, '2000-01-01 00:00+00')";
    list += list.empty() ? "" : ", ";
    if (shape.grows)
      list += oracle ? "generate_series(" + bin +
                           ", date_bin('3600 s', ts, '2000-01-01 00:00+00') + interval '3600 s' - interval " +
                           size + ", interval " + size + ")"
                     : "tick.cumulate(ts, '3600 s', " + size + ")";
    else if (shape.slide == 0)
      list += oracle ? bin : "tick.tumble(ts, " + size + in_zone + ")";
    else
      list += oracle ? "generate_series(" + last + " - interval " + size + " + " + slide + ", " + last +
                           ", " + slide + ")"
                     : "tick.hop(ts, " + size + ", " + slide + ")";
    list += " AS w";
  }
  for (const Column& column : shape.columns) add(column);
  return list;
}

inline std::string group_by(const Shape& shape) {
  const size_t count = shape.keys.size() + (shape.window != 0 ? 1 : 0);
  std::string list;
  for (size_t i = 1; i <= count; ++i) list += (i == 1 ? " GROUP BY " : ", ") + std::to_string(i);
  return list;
}

inline std::string rollup_query(const Shape& shape, const std::string& source) {
  return "SELECT " + select_list(shape, false) + " FROM " + source +
         (shape.where.empty() ? "" : " WHERE " + shape.where) + group_by(shape);
}

// What the rollup must hold: all rows but those that had left the table before it was made. Of a rollup that
// has been seeded also those of `old`.
inline std::string oracle_query(const Shape& shape, const std::string& shadow, const std::string& born,
                                const std::string& old) {
  return "SELECT " + select_list(shape, true) + " FROM " +
         (old.empty() ? shadow : "(TABLE " + shadow + " UNION ALL TABLE " + old + ") AS r") +
         " WHERE (gone IS NULL OR gone > " + born + ")" + (shape.window != 0 ? " AND isfinite(ts)" : "") +
         (shape.where.empty() ? "" : " AND (" + shape.where + ")") + group_by(shape);
}

// Rows of days before, as of a shadow.
inline std::string old_rows(int number) {
  const std::string mixed = "(i * 37 + " + std::to_string(number) + ")";
  return "SELECT i::int8 AS id, 'S' || i % 5 AS sym, (ARRAY['X', 'Y', 'z', NULL])[1 + i % 4] AS venue, "
         "timestamptz '2024-02-10 10:00+00' + i * i % 7200 * interval '1 s' AS ts, nullif(i % 7, 6) AS "
         "seq, " +
         mixed + " % 800 / 8.0::float8 AS price, " + mixed + " % 160 / 16.0::float8 AS qty, nullif(" + mixed +
         " % 1000, 7) / 100.0 AS amount, i % 10 AS n, 'old' AS note, i % 2 = 0 AS flag, NULL::int8 AS gone "
         "FROM generate_series(1, 60) AS i";
}

inline std::string seed_query(const Shape& shape, const std::string& old) {
  std::string parts;
  for (const Column& column : shape.columns)
    if (!column.parts.empty()) parts += ", " + column.parts;
  return "SELECT " + select_list(shape, true) + parts + " FROM " + old + group_by(shape);
}

inline std::string stored_query(const Shape& shape, const std::string& view) {
  std::string list;
  for (const Column& key : shape.keys) list += (list.empty() ? "" : ", ") + key.name;
  if (shape.window != 0) list += list.empty() ? "w" : ", w";
  for (const Column& column : shape.columns) list += (list.empty() ? "" : ", ") + column.name;
  return "SELECT " + list + " FROM " + view;
}

// Rows that are final now and that tick.as_of does not give of now, and the other way round.
inline std::string as_of_query(const Shape& shape, const std::string& view) {
  const std::string now = "(SELECT v::text FROM (" + stored_query(shape, view) + " WHERE final) AS v)";
  const std::string then = "(SELECT v::text FROM (" +
                           stored_query(shape, "tick.as_of(null::" + view + ", clock_timestamp())") +
                           ") AS v)";
  return "SELECT 'not given', * FROM (" + now + " EXCEPT " + then +
         ") AS a UNION ALL SELECT 'given', * FROM (" + then + " EXCEPT " + now + ") AS b";
}

// The rows that may hold a value that has left and cannot be computed again: the keys alone.
inline std::string stale_query(const Shape& shape, const std::string& view) {
  std::string list;
  for (const Column& key : shape.keys) list += (list.empty() ? "" : ", ") + key.name;
  if (shape.window != 0) list += list.empty() ? "w" : ", w";
  return "SELECT " + list + " FROM " + view + "_state WHERE tick_stale";
}

// A rollup over the rollup of a shape. Keys are all of its keys but the last, if it has any.
struct Child {
  std::string parent;
  Shape shape;  // of the parent; columns added to that before are compared by tick.verify alone
  bool hop = false;

  // For tick.create_rollup, or with built-in functions.
  std::string query(bool oracle) const {
    const std::string bin = "date_bin('600 s', w, '2000-01-01 00:00+00')";
    std::string list;
    const size_t keys = shape.keys.empty() ? 0 : shape.keys.size() - 1;
    for (size_t i = 0; i < keys; ++i) list += shape.keys[i].name + ", ";
    if (!hop)
      list += oracle ? bin : "tick.tumble(w, '600 s')";
    else
      list += oracle ? "generate_series(" + bin + " - interval '600 s', " + bin + ", '600 s')"
                     : "tick.hop(w, '1200 s', '600 s')";
    list += " AS of, count(*) AS windows";
    for (const Column& column : shape.columns) {
      const std::string& name = column.name;
      const std::string newest = oracle ? "(array_agg(" + name + " ORDER BY w DESC, " + name +
                                              " DESC) FILTER (WHERE " + name + " IS NOT NULL))[1]"
                                        : "tick.last(" + name + ", w)";
      list += ", count(" + name + ") AS n_" + name + ", max(" + name + ") AS max_" + name + ", " + newest +
              " AS last_" + name;
    }
    std::string by;
    for (size_t i = 1; i <= keys + 1; ++i) by += (i == 1 ? "" : ", ") + std::to_string(i);
    return "SELECT " + list + " FROM " + parent + " GROUP BY " + by;
  }

  // Rows that it has and must not have, and the other way round. Numbers may differ in their zeros at the
  // end.
  std::string comparison(const std::string& view) const {
    const std::string is = "(SELECT " + outputs() + " FROM " + view + ")";
    const std::string must = "(" + query(true) + ")";
    return "SELECT 'missing', a::text FROM (" + must + " EXCEPT ALL " + is +
           ") AS a UNION ALL SELECT 'extra', b::text FROM (" + is + " EXCEPT ALL " + must + ") AS b LIMIT 10";
  }

 private:
  std::string outputs() const {
    std::string list;
    for (size_t i = 0; i + 1 < shape.keys.size(); ++i) list += shape.keys[i].name + ", ";
    list += "of, windows";
    for (const Column& column : shape.columns)
      list += ", n_" + column.name + ", max_" + column.name + ", last_" + column.name;
    return list;
  }
};

inline size_t key_columns(const Shape& shape) {
  return shape.keys.size() + (shape.window != 0 ? 1 : 0);
}

}  // namespace tick::random
