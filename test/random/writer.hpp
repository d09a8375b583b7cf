// A connection that works through scripts without anybody waiting for it, the log of every statement, and
// which errors a writer may meet. Promise: operations are counted only when their transaction has committed.
#pragma once

#include <libpq-fe.h>

#include <set>
#include <string>
#include <vector>

#include "operations.hpp"
#include "server.hpp"

namespace tick::random {

// What a writer may be told besides success: it lost against another writer, or against a definition.
inline const std::set<std::string> expected_errors = {
    "40001",                                      // serialization failure, also "moved to another partition"
    "40P01",                                      // deadlock
    "55P03",                                      // lock timeout
    "23514",                                      // a new partition for rows that the default partition holds
    "42P01",                                      // a partition that has just been dropped
    "42P17",                                      // overlapping partitions
    "42P07",                                      // a name that is taken
    "42703",                                      // a column that has just been dropped
    "42804",                                      // a table to attach that lacks a column that was just added
    "57P01", "57P02", "57P03", "08006", "08003",  // killed
};

class Log {
 public:
  explicit Log(const std::string& name) : file_(std::fopen(name.c_str(), "w")) {}
  ~Log() {
    if (file_ != nullptr) std::fclose(file_);
  }
  void put(int who, const std::string& text) {
    if (file_ == nullptr) return;
    std::fprintf(file_, "%.3f %d %s\n", now() - begun_, who, text.c_str());
    std::fflush(file_);
  }

 private:
  FILE* file_;
  double begun_ = now();
};

// One connection that works through scripts without anybody waiting for it.
class Writer {
 public:
  Writer(uint64_t seed, int number) : author(seed * 31 + number, number), number_(number) {}
  ~Writer() { disconnect(); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  Author author;

  void connect(const std::string& conninfo) {
    disconnect();
    connection_ = PQconnectdb(conninfo.c_str());
    if (PQstatus(connection_) != CONNECTION_OK) throw Failed(PQerrorMessage(connection_));
    PQclear(PQexec(connection_,
                   "SET lock_timeout = '200ms'; SET tick.lock_timeout = '300ms'; SET timezone = 'UTC'"));
  }

  void disconnect() {
    PQfinish(connection_);
    connection_ = nullptr;
    busy_ = false;
  }

  bool busy() const { return busy_; }
  int socket() const { return PQsocket(connection_); }
  int backend() const { return PQbackendPID(connection_); }
  bool lost() const { return connection_ == nullptr || PQstatus(connection_) != CONNECTION_OK; }
  const Script& script() const { return script_; }
  bool succeeded() const { return succeeded_; }

  void begin(Script script, Log& log) {
    script_ = std::move(script);
    succeeded_ = true;
    rolling_back_ = false;
    batch_ = 0;
    effects_.clear();
    busy_ = true;
    send(log);
  }

  // Takes in what has come; true when the script has ended.
  bool pump(Log& log) {
    if (PQconsumeInput(connection_) != 1) return lose(log);
    while (!PQisBusy(connection_)) {
      PGresult* result = PQgetResult(connection_);
      if (result == nullptr) {
        if (lost()) return lose(log);
        if (next(log)) return true;
        continue;
      }
      take(result, log);
      PQclear(result);
    }
    return false;
  }

 private:
  bool lose(Log& log) {
    log.put(number_, "connection lost");
    succeeded_ = false;
    busy_ = false;
    return true;
  }

  void send(Log& log) {
    step_ = 0;
    std::string sql;
    if (rolling_back_) {
      sql = "ROLLBACK";
    } else {
      for (const Step& step : script_.batches[batch_]) sql += (sql.empty() ? "" : ";\n") + step.sql;
    }
    log.put(number_, sql);
    if (PQsendQuery(connection_, sql.c_str()) != 1) succeeded_ = false;
  }

  // Sends what comes next; true when nothing does.
  bool next(Log& log) {
    if (!rolling_back_) {
      if (succeeded_ && ++batch_ < script_.batches.size()) {
        send(log);
        return false;
      }
      if (!succeeded_ && PQtransactionStatus(connection_) != PQTRANS_IDLE) {
        rolling_back_ = true;
        send(log);
        return false;
      }
    }
    if (succeeded_)
      for (int kind : effects_) ++table[kind].effect;
    busy_ = false;
    return true;
  }

  void take(PGresult* result, Log& log) {
    const ExecStatusType status = PQresultStatus(result);
    const Step* step = nullptr;
    if (!rolling_back_ && step_ < script_.batches[batch_].size()) step = &script_.batches[batch_][step_];
    if (status == PGRES_COPY_IN) {  // its end comes as another result
      if (step == nullptr ||
          PQputCopyData(connection_, step->data.data(), static_cast<int>(step->data.size())) != 1 ||
          PQputCopyEnd(connection_, nullptr) != 1)
        succeeded_ = false;
      return;
    }
    ++step_;
    if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK) {
      const char* rows = PQcmdTuples(result);
      if (step != nullptr && step->fails) throw Failed("not refused: " + step->sql);
      if (step != nullptr && step->kind >= 0 && (step->certain || std::atol(rows) > 0))
        effects_.push_back(step->kind);
      // A COMMIT of a transaction that failed says ROLLBACK.
      if (step != nullptr && step->sql == "COMMIT" && std::strcmp(PQcmdStatus(result), "COMMIT") != 0)
        succeeded_ = false;
      return;
    }
    const char* field = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const std::string state = field == nullptr ? "08006" : field;
    log.put(number_, "error " + state + " " + PQresultErrorMessage(result));
    if (step != nullptr && step->fails && state == "55000") {
      ++table[step->kind].effect;
    } else if (!expected_errors.contains(state) &&
               !(step != nullptr && step->may_fail && (state == "55000" || state == "0A000"))) {
      throw Failed("unexpected error " + state + ": " + PQresultErrorMessage(result) + " in " +
                   (step == nullptr ? "?" : step->sql));
    }
    succeeded_ = false;
  }

  PGconn* connection_ = nullptr;
  int number_;
  Script script_;
  size_t batch_ = 0, step_ = 0;
  std::vector<int> effects_;
  bool busy_ = false, succeeded_ = false, rolling_back_ = false;
};

}  // namespace tick::random
