// What somebody wrote, whichever feed it came from, and what it is about.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../feed.hpp"

namespace tick::ingest {

struct Post {
  Timestamp ts{};
  std::string id;  // the same wherever and whenever the post is read
  std::string author;
  std::string text;
  std::vector<std::string> symbols;
  std::optional<double> sentiment;  // from -1 to 1
  std::int64_t cursor = 0;          // its place in the feed
  Timestamp received{};
};

}  // namespace tick::ingest
