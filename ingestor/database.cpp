// libpq behind database.hpp.
#include "database.hpp"

#include <libpq-fe.h>
#include <poll.h>

#include <memory>

#include "log.hpp"

namespace tick::ingest {

std::string one_line(const char* text) {
  std::string out;
  for (const char* c = text == nullptr ? "" : text; *c != '\0'; ++c) {
    const bool blank = *c == '\n' || *c == '\t' || *c == ' ';
    if (!blank)
      out += *c;
    else if (!out.empty() && out.back() != ' ')
      out += ' ';
  }
  while (out.ends_with(' ')) out.pop_back();
  return out;
}

namespace {

struct ClearResult {
  void operator()(PGresult* result) const { PQclear(result); }
};
using Result = std::unique_ptr<PGresult, ClearResult>;

void notice(void*, const PGresult* result) {
  const char* severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
  const char* message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  if (severity == nullptr || message == nullptr || std::string_view(severity) != "WARNING") return;
  log::warn(std::string("database: ") + message);
}

}  // namespace

Database::Database(const std::string& conninfo) {
  // Options before dbname are defaults, those after it cannot be overridden by the connection string.
  const char* const keywords[] = {"fallback_application_name",
                                  "connect_timeout",
                                  "keepalives_idle",
                                  "keepalives_interval",
                                  "keepalives_count",
                                  "tcp_user_timeout",
                                  "dbname",
                                  "client_encoding",
                                  nullptr};
  const char* const values[] = {"tick-ingest",    "10",   "10",   "5", "3", "30000",
                                conninfo.c_str(), "UTF8", nullptr};
  connection_ = PQconnectdbParams(keywords, values, 1);
  if (connection_ == nullptr) throw std::bad_alloc();
  if (PQstatus(connection_) != CONNECTION_OK) {
    const std::string message = one_line(PQerrorMessage(connection_));
    PQfinish(connection_);
    throw DatabaseError(message, "", true);
  }
  PQsetNoticeReceiver(connection_, notice, nullptr);
}

Database::~Database() {
  PQfinish(connection_);
}

bool Database::alive() const {
  return PQstatus(connection_) == CONNECTION_OK;
}

void Database::fail(const void* result_pointer) const {
  const auto* result = static_cast<const PGresult*>(result_pointer);
  const char* state = result == nullptr ? nullptr : PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const char* primary = result == nullptr ? nullptr : PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  std::string message = primary != nullptr ? primary : one_line(PQerrorMessage(connection_));
  if (primary != nullptr)
    for (const int field : {PG_DIAG_MESSAGE_DETAIL, PG_DIAG_MESSAGE_HINT})
      if (const char* more = PQresultErrorField(result, field)) message += std::string("\n") + more;
  throw DatabaseError(message, state == nullptr ? "" : state, PQstatus(connection_) != CONNECTION_OK);
}

void Database::run(const std::string& sql) {
  const Result result(PQexec(connection_, sql.c_str()));
  const auto status = PQresultStatus(result.get());
  if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && status != PGRES_EMPTY_QUERY)
    fail(result.get());
}

std::vector<Row> Database::query(const std::string& sql, std::span<const std::string> parameters) {
  std::vector<const char*> values;
  for (const auto& text : parameters) values.push_back(text.c_str());
  const Result result(PQexecParams(connection_, sql.c_str(), static_cast<int>(values.size()), nullptr,
                                   values.data(), nullptr, nullptr, 0));
  const auto status = PQresultStatus(result.get());
  if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) fail(result.get());
  std::vector<Row> rows(static_cast<std::size_t>(PQntuples(result.get())));
  const int columns = PQnfields(result.get());
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (int j = 0; j < columns; ++j) {
      const int row = static_cast<int>(i);
      if (PQgetisnull(result.get(), row, j))
        rows[i].emplace_back();
      else
        rows[i].emplace_back(std::string(PQgetvalue(result.get(), row, j)));
    }
  return rows;
}

std::vector<Database::Notification> Database::notifications(std::chrono::milliseconds patience) {
  std::vector<Notification> result;
  const auto take = [&] {
    if (PQconsumeInput(connection_) != 1) fail(nullptr);
    while (PGnotify* notify = PQnotifies(connection_)) {
      result.push_back({notify->relname, notify->extra});
      PQfreemem(notify);
    }
  };
  take();
  if (!result.empty()) return result;
  pollfd fd{PQsocket(connection_), POLLIN, 0};
  if (poll(&fd, 1, static_cast<int>(patience.count())) > 0) take();
  return result;
}

std::string Database::literal(std::string_view text) const {
  const std::unique_ptr<char, decltype(&PQfreemem)> quoted(
      PQescapeLiteral(connection_, text.data(), text.size()), PQfreemem);
  if (!quoted) fail(nullptr);
  return quoted.get();
}

std::string Database::identifier(std::string_view text) const {
  const std::unique_ptr<char, decltype(&PQfreemem)> quoted(
      PQescapeIdentifier(connection_, text.data(), text.size()), PQfreemem);
  if (!quoted) fail(nullptr);
  return quoted.get();
}

}  // namespace tick::ingest
