// The writer of tick.rejected; see rejects.hpp.
#include "rejects.hpp"

#include <algorithm>
#include <memory>

#include "database.hpp"
#include "log.hpp"

namespace tick::ingest {

namespace {

constexpr double burst = 100;
constexpr double per_second = 10;
constexpr std::size_t longest_payload = 4000;
constexpr std::size_t shown = 160;
constexpr auto retry_every = std::chrono::seconds(5);

// The database takes valid UTF-8 without NUL only; what a broken message holds is anybody's guess.
std::string printable(std::string_view text, std::size_t longest) {
  std::string out(text.substr(0, longest));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) c = '?';
  return out;
}

}  // namespace

Rejects::Rejects(std::string database, std::string feed, Stats& stats)
    : database_(std::move(database)),
      feed_(std::move(feed)),
      stats_(stats),
      allowance_(burst),
      filled_at_(std::chrono::steady_clock::now()),
      thread_([this] { run(); }) {}

Rejects::~Rejects() {
  {
    const std::lock_guard hold(guard_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Rejects::add(const char* reason, std::string_view payload) {
  const std::uint64_t count = ++stats_.malformed;
  if (count <= 5 || count % 1000 == 0)
    log::warn("rejected message (" + std::to_string(count) + " so far): " + reason + ": " +
              printable(payload, shown));
  const std::lock_guard hold(guard_);
  const auto now = std::chrono::steady_clock::now();
  allowance_ =
      std::min(burst, allowance_ + per_second * std::chrono::duration<double>(now - filled_at_).count());
  filled_at_ = now;
  if (allowance_ < 1 || waiting_.size() >= static_cast<std::size_t>(burst)) return;
  allowance_ -= 1;
  waiting_.push_back({reason, printable(payload, longest_payload)});
  changed_.notify_all();
}

void Rejects::run() {
  std::unique_ptr<Database> database;
  for (;;) {
    Entry entry;
    {
      std::unique_lock hold(guard_);
      changed_.wait(hold, [&] { return stop_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      entry = waiting_.front();
    }
    bool written = false;
    try {
      if (!database) database = std::make_unique<Database>(database_);
      const std::string parameters[] = {feed_, entry.reason, entry.payload};
      database->query("SELECT tick.reject($1, $2, $3)", parameters);
      written = true;
    } catch (const DatabaseError& error) {
      database.reset();
      // An older extension, or no right: there is nothing to wait for.
      if (!error.sqlstate().empty() && !error.connection_lost()) {
        log::warn(std::string("tick.rejected is not written: ") + error.what());
        written = true;
      }
    }
    std::unique_lock hold(guard_);
    if (written) {
      waiting_.pop_front();
    } else if (changed_.wait_for(hold, retry_every, [&] { return stop_; })) {
      return;
    }
  }
}

}  // namespace tick::ingest
