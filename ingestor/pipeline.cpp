// The steps from feed to dashboard; see pipeline.hpp.
#include "pipeline.hpp"

#include <algorithm>
#include <map>

#include "database.hpp"
#include "rollups.hpp"

namespace tick::ingest {

namespace {

constexpr const char* patience = "SET statement_timeout = '30s'";

const std::string& text_of(const Row& row, std::size_t field) {
  static const std::string nothing;
  return row.at(field) ? *row[field] : nothing;
}

bool is_true(const Row& row, std::size_t field) {
  return text_of(row, field) == "t";
}

// A rollup, or a view that reads one.
struct Step {
  std::string name;    // as regclass prints it
  bool rows = false;   // whether it has any
  bool ended = false;  // whether any of them is final
};

class Pipeline {
 public:
  Pipeline(const Config& config, const std::string& role, Findings& findings)
      : config_(config), role_(role), findings_(findings), database_(config.database) {
    database_.run(patience);
  }

  void follow() {
    feed();
    if (!table()) return;
    for (const auto& row :
         ask("SELECT rollup::text FROM tick.rollups WHERE source = $1::regclass ORDER BY 1", config_.table))
      rollup(text_of(row, 0));
    if (steps_.empty())
      findings_.broken("no rollup reads table " + config_.table,
                       "SELECT tick.create_rollup('candles_1m', 'SELECT ...'); tick-ingest init makes some");
    for (const auto& row : ask(readers, config_.table)) view(row);
    rights();
  }

 private:
  // The views over the rollups of a table, those of views over views after these, each with what it reads.
  static constexpr const char* readers =
      "WITH RECURSIVE reader(view, depth) AS (SELECT r.rollup::oid, 0 FROM tick.rollups AS r WHERE r.source "
      "= $1::regclass "
      "UNION SELECT w.ev_class, reader.depth + 1 FROM reader JOIN pg_catalog.pg_depend AS d ON d.refclassid "
      "= "
      "'pg_class'::regclass AND d.refobjid = reader.view AND d.classid = 'pg_rewrite'::regclass JOIN "
      "pg_catalog.pg_rewrite AS w "
      "ON w.oid = d.objid AND w.ev_class <> reader.view WHERE reader.depth < 20) "
      "SELECT v.view::regclass::text, (SELECT string_agg(DISTINCT d.refobjid::regclass::text, ',') FROM "
      "pg_catalog.pg_rewrite AS w "
      "JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND "
      "d.refclassid = "
      "'pg_class'::regclass AND d.refobjid <> v.view JOIN pg_catalog.pg_class AS i ON i.oid = d.refobjid AND "
      "i.relkind IN ('r', 'p', 'v', "
      "'m', 'f') WHERE w.ev_class = v.view), has_table_privilege(v.view, 'SELECT'), pg_get_viewdef(v.view) ~ "
      "'\\mfinal\\M' "
      "FROM (SELECT view, max(depth) AS depth FROM reader GROUP BY view) AS v JOIN pg_catalog.pg_class AS c "
      "ON c.oid = v.view AND "
      "c.relkind IN ('v', 'm') JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname NOT "
      "IN ('tick', "
      "'tick_catalog') WHERE v.depth > 0 ORDER BY v.depth, 1";

  std::vector<Row> ask(const std::string& sql, const std::string& parameter) {
    const std::string parameters[] = {parameter};
    return database_.query(sql, parameters);
  }
  bool any(const std::string& query) {
    return is_true(database_.query("SELECT EXISTS (" + query + ")").at(0), 0);
  }

  void feed() {
    const auto row = ask("SELECT count(*), round(extract(epoch FROM clock_timestamp() - "
                         "max(updated_at))::numeric, 3) FROM tick.feeds WHERE feed = $1",
                         config_.feed)
                         .at(0);
    if (text_of(row, 0) == "0")
      findings_.note("feed " + config_.feed + " has never committed anything into this database");
    else
      findings_.good("feed " + config_.feed + ": last commit " + text_of(row, 1) + " s ago");
  }

  // False if there is nothing to follow.
  bool table() {
    if (!any("SELECT FROM " + config_.table)) {
      findings_.broken("table " + config_.table + " is empty: the feed brings nothing",
                       "is tick-ingest run with this configuration, and does the check of the feed above say "
                       "that trades come?");
      return false;
    }
    const auto rows =
        ask("SELECT rows, round(extract(epoch FROM clock_timestamp() - max_time)::numeric, 3), "
            "round(rows_per_second::numeric, 1), rejected, "
            "late FROM tick.sources WHERE source = $1::regclass",
            config_.table);
    if (rows.empty()) {
      findings_.good("table " + config_.table + " has rows");
      return true;
    }
    findings_.good("table " + config_.table + ": newest tick " + text_of(rows[0], 1) + " s old, " +
                   text_of(rows[0], 2) + " rows/s, " + text_of(rows[0], 0) + " rows taken in, " +
                   text_of(rows[0], 4) + " late, " + text_of(rows[0], 3) + " without a time");
    return true;
  }

  void rollup(const std::string& name) {
    const auto row =
        ask(std::string("SELECT r.state, round(s.lag_ms::numeric, 1), coalesce(s.last_error, ''), ") +
                window_column +
                ", substring(r.query FROM 'WHERE (.*?)\\n *GROUP BY'), coalesce(w.watermark::text, 'none') "
                "FROM tick.rollups AS r JOIN tick.status AS s USING (rollup) LEFT JOIN tick.sources AS w ON "
                "w.source = r.source WHERE r.rollup = $1::regclass",
            name)
            .at(0);
    const std::string& state = text_of(row, 0);
    Step step{name, any("SELECT FROM " + name), false};
    if (state == "error") {
      findings_.broken("rollup " + name + " is set aside: " + text_of(row, 2),
                       "mend what it says, then SELECT tick.resume('" + name + "')");
    } else if (!step.rows && state != "live") {
      findings_.note("rollup " + name + " is empty: its history is still to be computed (" + state + ")");
    } else if (!step.rows) {
      std::string filter = text_of(row, 4);
      std::replace(filter.begin(), filter.end(), '\n', ' ');
      findings_.broken("rollup " + name + " is empty although table " + config_.table + " has rows: " +
                           (filter.empty() ? "they have no time" : "its WHERE lets none through: " + filter),
                       filter.empty()
                           ? "give the rows a finite time"
                           : "is the filter right? SELECT count(*) FROM " + config_.table + " WHERE ...");
    } else {
      const std::string& time = text_of(row, 3);  // the column of the window, if there are windows
      step.ended = !time.empty() && any("SELECT FROM " + name + " WHERE final");
      const std::string newest = time.empty() ? "" : newest_window(name, time);
      findings_.good(
          "rollup " + name + ": " + state + ", last turn " + text_of(row, 1) + " ms after its commit" +
          (time.empty() ? ", one row a key"
                        : ", newest window from " + newest +
                              (step.ended ? ", final below " : ", none final yet below ") + text_of(row, 5)));
      verify(name, newest);
    }
    steps_[name] = step;
  }

  std::string newest_window(const std::string& name, const std::string& time) {
    return text_of(database_.query("SELECT max(" + time + ") FROM " + name).at(0), 0);
  }

  // The hour up to its newest window, or all where there are no windows.
  void verify(const std::string& name, const std::string& newest) {
    const std::string what =
        database_.literal(name) +
        (newest.empty() ? "" : ", " + database_.literal(newest) + "::timestamptz - interval '1 hour'");
    try {
      const auto row = database_.query("SELECT count(*) FROM tick.verify(" + what + ")").at(0);
      if (text_of(row, 0) == "0")
        findings_.good("rollup " + name +
                       (newest.empty() ? " equals its query" : ": its last hour equals its query"));
      else
        findings_.broken("rollup " + name + " differs from its query in " + text_of(row, 0) + " values",
                         "SELECT * FROM tick.verify(" + database_.literal(name) + "), and tick.refresh");
    } catch (const DatabaseError& error) {
      findings_.note("rollup " + name + " was not verified: " + error.what());
    }
  }

  void view(const Row& row) {
    const std::string& name = text_of(row, 0);
    if (!is_true(row, 2)) return findings_.note("view " + name + " may not be read by this user");
    Step step{name, any("SELECT FROM " + name), false};
    std::string inputs, empty;
    bool ended = false;
    for (const auto& input : ask("SELECT unnest(string_to_array($1, ','))", text_of(row, 1))) {
      const auto known = steps_.find(text_of(input, 0));
      const bool rows = known == steps_.end() ? any("SELECT FROM " + text_of(input, 0)) : known->second.rows;
      ended = ended || (known != steps_.end() && known->second.ended);
      (rows ? inputs : empty) += ((rows ? inputs : empty).empty() ? "" : " and ") + text_of(input, 0);
    }
    step.ended = ended;
    steps_[name] = step;
    if (step.rows) return findings_.good("view " + name + " has rows");
    if (!empty.empty())
      return findings_.broken("view " + name + " is empty as " + empty + " is", "see there");
    if (is_true(row, 3) && !ended)
      return findings_.broken("view " + name + " is empty: no window is final yet",
                              "wait until the watermark has passed the end of a window (tick.sources), or "
                              "show windows that are not final");
    findings_.broken("view " + name + " is empty although " + inputs +
                         " have rows: its join key or its WHERE lets none through",
                     "do both sides write the key alike, and have their windows the same size? SELECT "
                     "DISTINCT the key of each");
  }

  void rights() {
    if (role_.empty()) return;
    if (ask("SELECT FROM pg_catalog.pg_roles WHERE rolname = $1", role_).empty())
      return findings_.broken("there is no role " + role_,
                              "CREATE ROLE " + database_.identifier(role_) + " LOGIN");
    for (const auto& [name, step] : steps_) {
      const std::string parameters[] = {role_, name};
      const auto row =
          database_
              .query(
                  "SELECT has_schema_privilege($1, c.relnamespace, 'USAGE'), has_table_privilege($1, c.oid, "
                  "'SELECT'), "
                  "quote_ident(n.nspname) FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON "
                  "n.oid = c.relnamespace WHERE c.oid = $2::regclass",
                  parameters)
              .at(0);
      const std::string who = database_.identifier(role_);
      if (is_true(row, 0) && is_true(row, 1))
        findings_.good("role " + role_ + " may read " + name);
      else
        findings_.broken(
            "role " + role_ + " may not read " + name,
            (is_true(row, 0) ? "" : "GRANT USAGE ON SCHEMA " + text_of(row, 2) + " TO " + who + "; ") +
                "GRANT SELECT ON " + name + " TO " + who);
    }
  }

  const Config& config_;
  const std::string& role_;
  Findings& findings_;
  Database database_;
  std::map<std::string, Step> steps_;
};

}  // namespace

void check_pipeline(const Config& config, const std::string& role, Findings& findings) {
  try {
    Pipeline(config, role, findings).follow();
  } catch (const DatabaseError& error) {
    findings.broken(error.what(), "see the message");
  }
}

}  // namespace tick::ingest
