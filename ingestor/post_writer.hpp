// The only writer of posts: rows and cursor in one statement, so that either both are in or neither. A batch
// whose commit got no answer is sent again; the unique index knows the rows. Not thread safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "config.hpp"
#include "database.hpp"
#include "feeds/jetstream.hpp"
#include "rejects.hpp"
#include "scorer.hpp"
#include "stats.hpp"

namespace tick::ingest {

class PostWriter {
 public:
  PostWriter(const Config& config, std::string feed, std::string connection, Stats& stats, Rejects& rejects,
             const std::atomic<bool>& abandon);

  // Connects (patiently), takes the position's lock, and reads the cursor. Throws FatalError where only a
  // human can help, Abandoned when `abandon` is set meanwhile; so does write().
  void open();
  std::int64_t cursor() const { return cursor_; }  // committed; 0: there is no position
  // Returns when every post is in once and the cursor is committed.
  void write(std::span<const Post> posts, std::int64_t cursor);
  // Scores some of the posts that have no score yet, from the oldest on. False: it came to the end of them.
  bool score_again(Scorer& scorer);

 private:
  void connect();
  void reconnect(const std::string& why);
  void pause();
  void attempt(std::span<const Post> posts, std::int64_t cursor);

  const Config& config_;
  std::string feed_;
  std::string connection_;
  Stats& stats_;
  Rejects& rejects_;
  const std::atomic<bool>& abandon_;
  std::unique_ptr<Database> database_;
  std::string table_;
  std::string sql_;
  std::int64_t cursor_ = 0;
  std::string after_ts_ = "-infinity";  // of the last post that score_again() had in hand
  std::string after_id_;
  std::size_t at_once_ = 1;
  std::uint64_t batch_ = 0;
  int failures_ = 0;
  bool opened_ = false;
};

}  // namespace tick::ingest
