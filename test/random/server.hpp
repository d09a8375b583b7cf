// The server of one run, as a direct child of the driver so that it can be killed with SIGKILL and started
// again, and connections to it: one that waits for each answer (Link) and the names of processes to kill.
// Promise: nothing but the postmaster started here is ever signalled by start and stop; the child ends when
// the driver does.
#pragma once

#include <fcntl.h>
#include <libpq-fe.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace tick::random {

inline double now() {
  timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return static_cast<double>(at.tv_sec) + static_cast<double>(at.tv_nsec) * 1e-9;
}

inline void pause(double seconds) {
  usleep(static_cast<useconds_t>(seconds * 1e6));
}

// A run that cannot go on: a difference, an error nobody expected, a server that does not come back.
struct Failed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Rows = std::vector<std::vector<std::string>>;

inline const char* const null_text = "\\N";

inline Rows rows_of(PGresult* result) {
  Rows rows(static_cast<size_t>(PQntuples(result)));
  for (int row = 0; row < PQntuples(result); ++row)
    for (int field = 0; field < PQnfields(result); ++field)
      rows[row].emplace_back(PQgetisnull(result, row, field) ? null_text : PQgetvalue(result, row, field));
  return rows;
}

// A connection whose statements must succeed.
class Link {
 public:
  explicit Link(const std::string& conninfo) : connection_(PQconnectdb(conninfo.c_str())) {}
  ~Link() { PQfinish(connection_); }
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  bool good() const { return PQstatus(connection_) == CONNECTION_OK; }
  PGconn* raw() { return connection_; }

  void send(const std::string& sql) {
    sent_ = sql;
    if (PQsendQuery(connection_, sql.c_str()) != 1) throw Failed(sql + ": " + PQerrorMessage(connection_));
  }

  // The rows of the last statement sent that has any.
  Rows receive() {
    Rows rows;
    std::string error;
    while (PGresult* result = PQgetResult(connection_)) {
      const ExecStatusType status = PQresultStatus(result);
      if (status == PGRES_TUPLES_OK)
        rows = rows_of(result);
      else if (status != PGRES_COMMAND_OK && error.empty())
        error = sent_ + ": " + PQresultErrorMessage(result);
      PQclear(result);
    }
    if (!error.empty()) throw Failed(error);
    return rows;
  }

  Rows ask(const std::string& sql) {
    send(sql);
    return receive();
  }

  // The same, of a query that will be asked again: planned once.
  Rows ask_again(const std::string& query) {
    std::string& plan = plans_[query];
    if (plan.empty()) {
      const std::string name = "plan" + std::to_string(plans_.size());
      ask("PREPARE " + name + " AS " + query);
      plan = name;
    }
    return ask("EXECUTE " + plan);
  }

  std::string value(const std::string& sql) {
    const Rows rows = ask(sql);
    return rows.empty() ? "" : rows[0][0];
  }

 private:
  PGconn* connection_;
  std::string sent_;
  std::map<std::string, std::string> plans_;  // of a query, its name
};

class Server {
 public:
  Server(std::string data, std::string socket, std::vector<std::string> settings)
      : data_(std::move(data)), socket_(std::move(socket)), settings_(std::move(settings)) {}
  ~Server() { stop(SIGQUIT); }

  std::string conninfo() const {
    return "host=" + socket_ +
           " port=5432 dbname=postgres connect_timeout=10 options='-c "
           "client_min_messages=error'";
  }

  // Starts the postmaster and waits until it answers; the processes of one that was killed may still hold its
  // memory.
  void start() {
    const double until = now() + 60;
    for (;;) {
      if (pid_ == 0) spawn();
      Link link(conninfo());
      if (link.good()) return;
      int status;
      if (waitpid(pid_, &status, WNOHANG) == pid_) pid_ = 0;
      if (now() > until) throw Failed("the server does not start");
      pause(0.01);
    }
  }

  void stop(int signal) {
    if (pid_ == 0) return;
    kill(pid_, signal);
    int status;
    waitpid(pid_, &status, 0);
    pid_ = 0;
  }

  void kill_postmaster() { stop(SIGKILL); }

 private:
  void spawn() {
    const char* directory = getenv("TICK_BINDIR");
    const std::string program = directory == nullptr ? "postgres" : std::string(directory) + "/postgres";
    const std::string log = data_ + "/server.log";
    std::vector<std::string> arguments = {program,
                                          "-D",
                                          data_,
                                          "-c",
                                          "listen_addresses=",
                                          "-c",
                                          "port=5432",
                                          "-c",
                                          "unix_socket_directories=" + socket_};
    for (const std::string& setting : settings_) {
      arguments.emplace_back("-c");
      arguments.push_back(setting);
    }
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGQUIT);
    const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(open("/dev/null", O_RDONLY), 0);
    dup2(out, 1);
    dup2(out, 2);
    execvp(argv[0], argv.data());
    _exit(127);
  }

  std::string data_, socket_;
  std::vector<std::string> settings_;
  pid_t pid_ = 0;
};

}  // namespace tick::random
