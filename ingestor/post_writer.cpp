// Rows and cursor in one statement; see post_writer.hpp.
#include "post_writer.hpp"

#include <algorithm>
#include <charconv>

#include "columns.hpp"
#include "log.hpp"
#include "number.hpp"
#include "position.hpp"

namespace tick::ingest {

namespace {

constexpr std::size_t most_at_once = 64;  // posts scored again

// Errors that belong to a row, not to the moment.
bool row_error(const std::string& sqlstate) {
  return sqlstate.starts_with("22") || sqlstate.starts_with("23") || sqlstate.starts_with("P0");
}

void append_score(std::string& out, std::optional<double> score) {
  if (!score) return;
  char text[40];
  const auto end = std::to_chars(text, std::end(text), *score).ptr;
  out += ",\"sentiment\":";
  out.append(text, end);
}

std::string rows_json(std::span<const Post> posts) {
  std::string out = "[";
  for (const auto& post : posts) {
    const auto field = [&](const char* name, std::string_view value) {
      out += std::string(",\"") + name + "\":";
      append_json_string(out, value);
    };
    for (const auto& symbol : post.symbols) {
      out += (out.size() > 1 ? ",{\"us\":" : "{\"us\":") + std::to_string(post.ts.time_since_epoch().count());
      field("symbol", symbol);
      field("id", post.id);
      field("author", post.author);
      field("text", post.text);
      append_score(out, post.sentiment);
      out += '}';
    }
  }
  return out + "]";
}

std::size_t row_count(std::span<const Post> posts) {
  std::size_t count = 0;
  for (const auto& post : posts) count += post.symbols.size();
  return count;
}

}  // namespace

PostWriter::PostWriter(const Config& config, std::string feed, std::string connection, Stats& stats,
                       Rejects& rejects, const std::atomic<bool>& abandon)
    : Link(config.database, std::move(feed), std::move(connection), stats, abandon),
      config_(config),
      rejects_(rejects) {}

void PostWriter::set_up() {
  const std::string name[] = {config_.table};
  const auto found = database().query(
      "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_catalog.pg_class c"
      " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)",
      name);
  if (found.empty())
    throw FatalError("table " + config_.table + " does not exist; `tick-ingest init --feed " + config_.feed +
                     "` creates it");
  table_ = *found[0][0];
  sql_ =
      "WITH new AS (INSERT INTO " + table_ +
      " (feed, symbol, ts, id, author, text, sentiment)"
      " SELECT $1, r.symbol, timestamptz 'epoch' + r.us * interval '1 microsecond', r.id, r.author, r.text,"
      " r.sentiment FROM jsonb_to_recordset($2::jsonb) AS r(symbol text, us int8, id text, author text,"
      " text text, sentiment float8) ON CONFLICT DO NOTHING RETURNING 1)"
      " SELECT count(*), tick.feed($3, $4, $5::jsonb) FROM new";
  const auto stored = stored_position();
  if (!stored) return;
  if (stored->table == table_)
    cursor_ = std::max(cursor_, static_cast<std::int64_t>(stored->record));
  else
    log::warn("the stored position belongs to table " + stored->table + ": starting afresh for " + table_);
}

void PostWriter::attempt(std::span<const Post> posts, std::int64_t cursor) {
  Position next;
  next.session = "cursor";
  next.batch = batch_ + 1;
  next.table = table_;
  next.record = static_cast<std::uint64_t>(std::max(cursor, cursor_));
  const std::string parameters[] = {config_.exchange, rows_json(posts), feed_, connection_, to_json(next)};
  const auto answer = database().query(sql_, parameters);
  const auto rows = static_cast<std::uint64_t>(parse_integer(answer.at(0).at(0).value_or("0")).value_or(0));
  ++batch_;
  works();
  cursor_ = static_cast<std::int64_t>(next.record);
  stats_.rows += rows;
  stats_.duplicates += row_count(posts) - rows;
  if (!posts.empty()) ++stats_.batches;
}

bool PostWriter::score_again(Scorer& scorer) try {
  if (!database().alive()) return true;
  const std::string after[] = {config_.exchange, after_ts_, after_id_, std::to_string(at_once_)};
  const auto rows = database().query(
      "SELECT ts::text, id, text FROM " + table_ +
          " WHERE feed = $1 AND sentiment IS NULL AND text IS NOT NULL AND (ts, id) > ($2::timestamptz, $3)"
          " GROUP BY ts, id, text ORDER BY ts, id LIMIT $4::int",
      after);
  if (rows.empty()) {
    after_ts_ = "-infinity";
    after_id_.clear();
    return false;
  }
  std::vector<std::string_view> texts;
  for (const auto& row : rows) texts.push_back(*row[2]);
  const auto scores = scorer.score(texts);
  if (!scores && !scorer.answered()) return true;
  if (!scores && at_once_ > 1) {
    at_once_ = std::max<std::size_t>(1, at_once_ / 4);
    return true;
  }
  if (scores) {
    std::string json = "[";
    for (std::size_t i = 0; i < rows.size(); ++i) {
      json += (i > 0 ? ",{\"id\":" : "{\"id\":");
      append_json_string(json, *rows[i][1]);
      append_score(json, (*scores)[i]);
      json += '}';
    }
    const std::string parameters[] = {config_.exchange, json + "]"};
    database().query("UPDATE " + table_ +
                         " p SET sentiment = r.sentiment FROM jsonb_to_recordset($2::jsonb) AS r(id text,"
                         " sentiment float8) WHERE p.feed = $1 AND p.id = r.id AND p.sentiment IS NULL",
                     parameters);
    at_once_ = std::min(most_at_once, at_once_ * 4);
  }
  after_ts_ = *rows.back()[0];
  after_id_ = *rows.back()[1];
  return true;
} catch (const DatabaseError& error) {
  if (!error.connection_lost()) log::warn(std::string("posts are not scored again: ") + error.what());
  return error.connection_lost();
}

// Recursion depth is log2(batch): halves are taken only to find the post that the table will never accept.
void PostWriter::write(std::span<const Post> posts, std::int64_t cursor) {
  for (;;) {
    std::string sqlstate;
    std::string message;
    try {
      if (!database().alive()) throw DatabaseError("closed by the server", "", true);
      return attempt(posts, cursor);
    } catch (const DatabaseError& error) {
      sqlstate = error.sqlstate();
      message = one_line(error.what());
    }
    if (!database().alive()) {
      reconnect(message);
    } else if (row_error(sqlstate) && posts.size() > 1) {
      const auto half = posts.size() / 2;
      write(posts.first(half), 0);
      posts = posts.subspan(half);
    } else if (row_error(sqlstate) && posts.size() == 1) {
      ++stats_.refused;
      log::error("post refused by the database: " + message + " [" + posts[0].id + "]");
      rejects_.add("refused by the database", posts[0].id + " " + posts[0].text);
      posts = {};
    } else {
      complain("posts not committed, trying again: " + message + " (" + sqlstate + ")");
      pause();
      if (sqlstate.starts_with("42")) look_again();
    }
  }
}

}  // namespace tick::ingest
