// What a turn tells listeners: one NOTIFY for each rollup it has changed, and one for each window that has
// closed, on the rollup's own channel. It is told in a transaction of its own, after the turn: whatever goes
// wrong with it never undoes or holds up a merge. Nobody is told while nobody listens in this database.
#pragma once

#include <string>
#include <vector>

#include "rollup.hpp"

namespace tick::pg {

// For the library's start: counts the sessions that listen to a rollup.
void watch_listeners();
// True if a session of this database has listened to a rollup's channel, and is still there.
bool has_listeners();

// The keys of a row as a JSON object, palloc'ed. Their output functions may be a user's. Throws nothing,
// ereports.
const char* key_json(const Rollup& rollup, const Cell* keys);

// What has changed in one rollup. Window starts; none = minus_infinity.
struct Change {
  Micros from = plus_infinity, to = minus_infinity;
  std::vector<std::string> keys;  // JSON objects, each once; of no use when `many`
  bool many = false;
};

// Adds what a fold of the rollup holds. Throws.
void add_change(Change& change, const Rollup& rollup, const Fold& fold);

// Sends, within a transaction. Throws PgError.
void notify_change(const Rollup& rollup, const Change& change, const std::string& token);
void notify_closed(const Rollup& rollup, Micros window, const std::string& token);

}  // namespace tick::pg
