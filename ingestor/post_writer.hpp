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
#include "link.hpp"
#include "rejects.hpp"
#include "scorer.hpp"
#include "stats.hpp"

namespace tick::ingest {

class PostWriter final : public Link {
 public:
  PostWriter(const Config& config, std::string feed, std::string connection, Stats& stats, Rejects& rejects,
             const std::atomic<bool>& abandon);

  std::int64_t cursor() const { return cursor_; }  // committed; 0: there is no position
  // Returns when every post is in once and the cursor is committed. Throws as open() does.
  void write(std::span<const Post> posts, std::int64_t cursor);
  // Scores some of the posts that have no score yet, from the oldest on. False: it came to the end of them.
  bool score_again(Scorer& scorer);

 private:
  void set_up() override;
  void attempt(std::span<const Post> posts, std::int64_t cursor);

  const Config& config_;
  Rejects& rejects_;
  std::string table_;
  std::string sql_;
  std::int64_t cursor_ = 0;
  std::string after_ts_ = "-infinity";  // of the last post that score_again() had in hand
  std::string after_id_;
  std::size_t at_once_ = 1;
  std::uint64_t batch_ = 0;
};

}  // namespace tick::ingest
