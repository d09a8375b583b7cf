// A live feed: connections to the exchange, one after another or overlapping, their messages decoded into the
// ring, what they missed repaired, what cannot be a tick rejected. Returns the process's exit code.
#pragma once

#include <functional>
#include <optional>

#include "config.hpp"

namespace tick::ingest {

// `reread` gives the configuration anew on SIGHUP: symbols may come and go, nothing else changes.
int run_live(const Config& config, const std::function<std::optional<Config>()>& reread);

// Messages of the feed as they come, one line `<receive time in ns> <message>` each, into a file (.gz:
// compressed) that `replay` and `fake` read; ends after `limit` messages (0: on SIGTERM).
int run_record(const Config& config, const std::string& file, std::uint64_t limit);

// What run_live connects with.
struct ClientOptions;
ClientOptions client_options(const Config& config);  // without what an exchange wants to be told
ClientOptions client_options(const Config& config, const Feed& feed);

}  // namespace tick::ingest
