// A writer's hold on the database: a connection that comes back, under the lock of the position that it
// writes. Promises that whoever was connected before is gone when set_up() runs, so that what it reads is
// final. Not thread safe.
#pragma once

#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <string>

#include "database.hpp"
#include "position.hpp"
#include "stats.hpp"

namespace tick::ingest {

// The caller gave up waiting for the database.
class Abandoned : public std::exception {};

class Link {
 public:
  Link(std::string database, std::string feed, std::string connection, Stats& stats,
       const std::atomic<bool>& abandon);
  virtual ~Link();

  // Connects (patiently). Throws FatalError where only a human can help, Abandoned when told to.
  void open();

 protected:
  // After each connect: looks at the table and reads the position.
  virtual void set_up() = 0;
  // The position that is stored; throws FatalError when it cannot be read.
  std::optional<Position> stored_position();
  void reconnect(const std::string& why);
  void look_again();  // connects anew: what we know of the table may be true no more
  void pause();       // longer each time until works()
  void works();
  void complain(const std::string& why);  // once, and then once a minute, until works()
  Database& database() { return *database_; }
  const Database& database() const { return *database_; }
  bool opened() const { return opened_; }

  const std::string feed_;
  const std::string connection_;
  Stats& stats_;

 private:
  void connect();
  void lock();

  const std::string database_name_;
  const std::atomic<bool>& abandon_;
  std::unique_ptr<Database> database_;
  int failures_ = 0;
  std::string complaint_;
  std::chrono::steady_clock::time_point complained_{};
  bool opened_ = false;
};

}  // namespace tick::ingest
