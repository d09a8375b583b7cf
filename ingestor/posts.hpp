// Posts of a social network, or articles of an RSS document, into a table posts(feed, symbol, ts, id, author,
// text, sentiment): one row per post and symbol that it is about. A stream's position is its cursor,
// committed with the rows; what is sent again after a reconnect, or after a kill, the table's unique index
// keeps out.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "config.hpp"
#include "feeds/jetstream.hpp"

namespace tick::ingest {

// Runs until SIGTERM or SIGINT; the process's exit code. `reread` gives the configuration anew on SIGHUP:
// symbols and names may change.
int run_posts(const Config& config, const std::function<std::optional<Config>()>& reread);

// What the table must have.
constexpr const char* post_columns = "feed,symbol,ts,id,author,text,sentiment";

// Connects as run_posts would until a message can be read; "" or what is wrong.
std::string try_posts(const Config& config, std::chrono::seconds patience);

}  // namespace tick::ingest
