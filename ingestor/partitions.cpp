// Day partitions; see partitions.hpp. LIKE + ATTACH instead of PARTITION OF: the parent is locked less.
#include "partitions.hpp"

#include "log.hpp"
#include "number.hpp"

namespace tick::ingest {

namespace {
constexpr std::size_t most_days = 1000;  // a file of one row per day for decades must not make 10,000 tables
}

void DayPartitions::open(Database& database, const std::string& table, const std::string& time) {
  const std::string parameters[] = {table, time};
  const auto rows = database.query(
      "SELECT c.oid, n.nspname, c.relname, coalesce(p.partstrat = 'r' AND p.partnatts = 1 AND a.attname = $2"
      " AND a.atttypid IN (1184, 1114), false)"
      " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
      " LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = c.oid"
      " LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]"
      " WHERE c.oid = $1::regclass",
      parameters);
  if (oid_ != *rows.at(0).at(0)) known_.clear();
  oid_ = *rows[0][0];
  schema_ = *rows[0][1];
  name_ = *rows[0][2];
  managed_ = *rows[0][3] == "t";
  table_ = database.identifier(schema_) + "." + database.identifier(name_);
}

void DayPartitions::ensure(Database& database, std::int64_t day) {
  if (!managed_ || known_.contains(day)) return;
  if (known_.size() >= most_days) {
    if (known_.size() == most_days)
      log::warn("ticks of more than " + std::to_string(most_days) + " days: no further partitions are made");
  } else {
    for (int attempt = 0; attempt < 3; ++attempt)
      if (make(database, day)) break;
  }
  known_.insert(day);  // also after a failure: from now on the default partition has rows of that day
}

bool DayPartitions::make(Database& database, std::int64_t day) {
  const std::string from = format_day(day, '-');
  const std::string part_name = name_.substr(0, 54) + "_" + format_day(day, '_');
  const std::string part = database.identifier(schema_) + "." + database.identifier(part_name);
  try {
    database.run(
        "BEGIN; SET LOCAL lock_timeout = '2s'; SET LOCAL TimeZone = 'UTC'; SELECT pg_advisory_xact_lock(" +
        oid_ + "::int8 | (4919::int8 << 32))");
    const std::string parameters[] = {schema_, part_name};
    const auto there = database.query(
        "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = $1 AND c.relname = $2",
        parameters);
    if (there.empty())
      database.run("CREATE TABLE " + part + " (LIKE " + table_ +
                   " INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE"
                   " INCLUDING COMPRESSION); ALTER TABLE " +
                   table_ + " ATTACH PARTITION " + part + " FOR VALUES FROM (" + database.literal(from) +
                   ") TO (" + database.literal(format_day(day + 1, '-')) + ")");
    database.run("COMMIT");
    if (there.empty()) log::info("partition " + part_name + " created");
    return true;
  } catch (const DatabaseError& error) {
    if (error.connection_lost()) throw;
    database.run("ROLLBACK");
    if (error.sqlstate() == "42P17") return true;  // the day lies in a partition that somebody else made
    log::warn("no partition for " + from + " (rows go to the default partition): " + error.what());
    return error.sqlstate() != "55P03" && error.sqlstate() != "40P01";  // lock timeout, deadlock: try again
  }
}

}  // namespace tick::ingest
