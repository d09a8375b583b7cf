// One libpq connection as an object: errors become DatabaseError with its SQLSTATE, results become texts.
// Not thread safe. COPY speaks to handle() directly; nothing else should.
#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

struct pg_conn;

namespace tick::ingest {

class DatabaseError : public std::runtime_error {
 public:
  DatabaseError(const std::string& message, std::string sqlstate, bool connection_lost)
      : std::runtime_error(message), sqlstate_(std::move(sqlstate)), connection_lost_(connection_lost) {}
  const std::string& sqlstate() const { return sqlstate_; }  // "" when there was no answer at all
  bool connection_lost() const { return connection_lost_; }

 private:
  std::string sqlstate_;
  bool connection_lost_;
};

using Row = std::vector<std::optional<std::string>>;

// libpq's messages have line breaks and tabs; a log line has not.
std::string one_line(const char* text);

class Database {
 public:
  // Connects; conninfo may be empty (environment only), a keyword string, a URL or a database name.
  explicit Database(const std::string& conninfo);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // Runs a text of one or more statements.
  void run(const std::string& sql);
  // Runs one statement with parameters.
  std::vector<Row> query(const std::string& sql, std::span<const std::string> parameters = {});

  // Waits up to `patience` for notifications of the channels that were LISTENed to.
  struct Notification {
    std::string channel, payload;
  };
  std::vector<Notification> notifications(std::chrono::milliseconds patience);

  std::string literal(std::string_view text) const;
  std::string identifier(std::string_view text) const;
  bool alive() const;
  pg_conn* handle() const { return connection_; }

 private:
  [[noreturn]] void fail(const void* result) const;
  pg_conn* connection_ = nullptr;
};

}  // namespace tick::ingest
