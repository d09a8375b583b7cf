// Connection, queue, and supervision; see posts.hpp.
#include "posts.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "chain.hpp"
#include "link.hpp"
#include "feeds/rss.hpp"
#include "live.hpp"
#include "log.hpp"
#include "mentions.hpp"
#include "poll.hpp"
#include "post_writer.hpp"
#include "rejects.hpp"
#include "run.hpp"
#include "socket.hpp"
#include "status.hpp"

namespace tick::ingest {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t most_waiting = 10'000;  // posts; then the socket is not read
constexpr std::size_t most_per_batch = 64;
constexpr auto look_every = std::chrono::seconds(1);           // for what else there is to do
constexpr auto commit_cursor_every = std::chrono::seconds(5);  // while no post is of interest
constexpr double longest_backoff_seconds = 32;
constexpr auto log_interval = std::chrono::seconds(10);
constexpr double most_asked_again = 20;  // broken messages; one more every half minute
constexpr double asked_again_per_second = 1.0 / 30;

Timestamp now() {
  return std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now());
}

// Posts on their way to the writer, and how far the stream was read. One producer, one consumer.
class Queue {
 public:
  explicit Queue(std::chrono::microseconds age) : age_(age) {}

  void push(Post post) {
    const std::lock_guard hold(guard_);
    if (posts_.empty()) filled_at_ = Clock::now();
    posts_.push_back(std::move(post));
    if (posts_.size() == 1 || posts_.size() == most_per_batch) changed_.notify_all();
  }
  // Everything up to this place was read, and what is of interest of it was pushed before.
  void read_up_to(std::int64_t cursor) {
    const std::lock_guard hold(guard_);
    cursor_ = std::max(cursor_, cursor);
  }
  std::int64_t cursor() const {
    const std::lock_guard hold(guard_);
    return cursor_;
  }
  std::size_t size() const {
    const std::lock_guard hold(guard_);
    return posts_.size();
  }
  bool closed() const {
    const std::lock_guard hold(guard_);
    return closed_;
  }
  bool room() const { return size() < most_waiting; }
  void close() {
    const std::lock_guard hold(guard_);
    closed_ = true;
    changed_.notify_all();
  }

  // Waits a while for posts; `cursor` is the place up to which the stream is read when they are in. False:
  // closed and empty.
  bool take(std::vector<Post>& out, std::int64_t& cursor) {
    out.clear();
    std::unique_lock hold(guard_);
    if (taken_all_ && posts_.empty() && closed_) return false;
    changed_.wait_for(hold, look_every, [&] { return closed_ || !posts_.empty(); });
    if (!posts_.empty())
      changed_.wait_until(hold, filled_at_ + age_,
                          [&] { return closed_ || posts_.size() >= most_per_batch; });
    const std::size_t n = std::min(posts_.size(), most_per_batch);
    cursor = 0;
    for (std::size_t i = 0; i < n; ++i) {
      cursor = std::max(cursor, posts_.front().cursor);
      out.push_back(std::move(posts_.front()));
      posts_.pop_front();
    }
    if (posts_.empty()) cursor = std::max(cursor, cursor_);
    taken_all_ = closed_ && posts_.empty();
    return true;
  }

 private:
  std::chrono::microseconds age_;
  mutable std::mutex guard_;
  std::condition_variable changed_;
  std::deque<Post> posts_;
  Clock::time_point filled_at_{};
  std::int64_t cursor_ = 0;
  bool closed_ = false;
  bool taken_all_ = false;
};

std::shared_ptr<const Mentions> make_mentions(const Config& config) {
  std::vector<std::string> symbols;
  for (const auto& symbol : config.symbols) symbols.emplace_back(table_name(config, symbol));
  auto names = config.aliases;
  for (const auto& symbol : config.symbols) names.emplace(symbol, table_name(config, symbol));
  return std::make_shared<Mentions>(symbols, names);
}

// Where posts come from: fills the queue on a thread of its own.
class Source {
 public:
  virtual ~Source() = default;
  virtual void run(std::int64_t committed) = 0;  // until stop()
  virtual void stop() = 0;
  virtual void replace(const Config& config) = 0;  // from any thread: other symbols and names
};

// Counts a post and queues it, when it is about something.
void offer(Post post, const Mentions& mentions, Queue& queue, Stats& stats) {
  post.symbols = mentions.find(post.text);
  if (post.symbols.empty()) return;
  ++stats.ticks;
  stats.data_at_us =
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch()).count();
  post.received = now();
  queue.push(std::move(post));
}

// The messages of one connection after another.
class Receiver final : public FrameHandler {
 public:
  Receiver(const Config& config, Queue& queue, Rejects& rejects, Stats& stats)
      : queue_(queue), rejects_(rejects), stats_(stats), mentions_(make_mentions(config)) {}

  void opened() override {
    log::info("connected");
    stats_.connected = true;
  }

  bool frame(std::string_view text, std::chrono::system_clock::time_point received) override {
    ++stats_.messages;
    Post post;
    std::int64_t cursor = 0;
    const Decoded decoded =
        stream_.decode(text, std::chrono::floor<std::chrono::microseconds>(received), post, cursor);
    if (decoded.verdict == Verdict::malformed) {
      rejects_.add(decoded.reason, text);
      if (cursor == 0) broken();
    } else if (decoded.verdict == Verdict::tick) {
      offer(std::move(post), *mentions(), queue_, stats_);
    } else {
      ++stats_.ignored;
    }
    if (cursor > 0) {
      got_data_ = true;
      last_ = cursor;
      if (!again_) queue_.read_up_to(cursor);
    }
    return room();
  }

  bool room() override { return queue_.room(); }

  std::string overdue() override { return again_ ? "a broken message is asked for again" : ""; }

  // Before each connection: where it is to begin; 0: with what is new.
  std::int64_t begin(std::int64_t committed) {
    const std::int64_t from = std::max(committed, queue_.cursor());
    again_ = false;
    got_data_ = false;
    last_ = 0;
    return from == 0 ? 0 : from - jetstream_rewind_us;
  }
  bool got_data() const { return got_data_; }

  void replace(const Config& config) {
    auto fresh = make_mentions(config);
    const std::lock_guard hold(guard_);
    mentions_ = std::move(fresh);
  }

 private:
  std::shared_ptr<const Mentions> mentions() const {
    const std::lock_guard hold(guard_);
    return mentions_;
  }

  // The stream is kept by the service, so a message that came broken can be had again: once, since one that
  // is broken there will come the same.
  void broken() {
    const auto time = Clock::now();
    allowance_ =
        std::min(most_asked_again, allowance_ + asked_again_per_second *
                                                    std::chrono::duration<double>(time - filled_at_).count());
    filled_at_ = time;
    if (again_ || last_ == asked_again_ || allowance_ < 1) return;
    allowance_ -= 1;
    asked_again_ = last_;
    again_ = true;  // the queue's cursor stays before it
  }

  Queue& queue_;
  Rejects& rejects_;
  Stats& stats_;
  Jetstream stream_;
  mutable std::mutex guard_;
  std::shared_ptr<const Mentions> mentions_;
  std::int64_t last_ = 0;          // of this connection
  std::int64_t asked_again_ = -1;  // the place before the last message that was
  double allowance_ = most_asked_again;
  Clock::time_point filled_at_ = Clock::now();
  bool again_ = false;
  bool got_data_ = false;
};

// Jetstream: one connection after another.
class Reader final : public Source {
 public:
  Reader(const Config& config, Queue& queue, Rejects& rejects, Stats& stats)
      : config_(config),
        receiver_(config, queue, rejects, stats),
        stats_(stats),
        options_(client_options(config)) {}

  void run(std::int64_t committed) override {
    int failures = 0;
    for (;;) {
      const std::int64_t from = receiver_.begin(committed);
      auto url = parse_url(Jetstream::url(config_.url, from));
      if (!url) throw std::runtime_error("impossible address " + config_.url);
      log::info(
          "connecting to " + config_.url +
          (from == 0 ? "" : ", going on after " + format_time(Timestamp(std::chrono::microseconds(from)))));
      {
        const std::lock_guard hold(guard_);
        if (stop_) return;
        client_ = std::make_unique<Client>();
      }
      std::string why;
      try {
        why = client_->run(*url, options_, receiver_);
      } catch (const std::exception& error) {
        why = error.what();
      }
      stats_.connected = false;
      std::unique_lock hold(guard_);
      client_.reset();
      if (stop_) return;
      ++stats_.feed_reconnects;
      failures = receiver_.got_data() ? 0 : failures + 1;
      const double base =
          std::min(longest_backoff_seconds, 0.2 * static_cast<double>(1 << std::min(failures, 10)));
      const double wait = base * std::uniform_real_distribution<>(0.5, 1.0)(random_);
      char text[32];
      std::snprintf(text, sizeof text, "%.1f", wait);
      log::warn("disconnected: " + why + "; next try in " + text + " s");
      changed_.wait_for(hold, std::chrono::duration<double>(wait), [&] { return stop_; });
    }
  }

  void stop() override {
    const std::lock_guard hold(guard_);
    stop_ = true;
    if (client_) client_->stop();
    changed_.notify_all();
  }

  void replace(const Config& config) override { receiver_.replace(config); }

 private:
  const Config& config_;
  Receiver receiver_;
  Stats& stats_;
  ClientOptions options_;
  std::mutex guard_;
  std::condition_variable changed_;
  std::unique_ptr<Client> client_;
  bool stop_ = false;
  std::minstd_rand random_{std::random_device{}()};
};

// An RSS document: what was not in the one before. Articles that a full queue, or a kill, keeps out are in
// the next one as well, unless there were more of them meanwhile than the server shows.
class Articles final : public Source {
 public:
  Articles(const Config& config, Queue& queue, Rejects& rejects, Stats& stats)
      : queue_(queue),
        rejects_(rejects),
        stats_(stats),
        polling_(config, config.url, stats),
        mentions_(make_mentions(config)) {}

  void run(std::int64_t) override {
    polling_.run([this](const std::string& document) { return take(document); });
  }
  void stop() override { polling_.stop(); }
  void replace(const Config& config) override {
    auto fresh = make_mentions(config);
    const std::lock_guard hold(guard_);
    mentions_ = std::move(fresh);
    seen_.clear();
  }

 private:
  bool take(const std::string& document) {
    if (!queue_.room()) return false;
    std::vector<Post> posts;
    const Decoded decoded = read_articles(document, now(), posts);
    const bool read = decoded.verdict != Verdict::malformed;
    if (!read || decoded.bad > 0) rejects_.add(decoded.reason, document);
    if (!read) return false;
    std::set<std::string> ids;
    const std::lock_guard hold(guard_);
    for (auto& post : posts) {
      const std::int64_t cursor = post.cursor;
      const bool old = seen_.contains(post.id) || ids.contains(post.id);
      ids.insert(post.id);
      if (old)
        ++stats_.ignored;
      else
        offer(std::move(post), *mentions_, queue_, stats_);
      queue_.read_up_to(cursor);
    }
    seen_ = std::move(ids);
    return true;
  }

  Queue& queue_;
  Rejects& rejects_;
  Stats& stats_;
  Polling polling_;
  std::mutex guard_;
  std::shared_ptr<const Mentions> mentions_;
  std::set<std::string> seen_;  // of the last document
};

std::unique_ptr<Source> make_source(const Config& config, Queue& queue, Rejects& rejects, Stats& stats) {
  if (find_venue(config.feed)->asks()) return std::make_unique<Articles>(config, queue, rejects, stats);
  return std::make_unique<Reader>(config, queue, rejects, stats);
}

// Both threads and their end.
class Posts {
 public:
  Posts(const Config& config, std::string connection)
      : config_(config),
        name_(config.feed + "/" + connection),
        rejects_(config.database, name_, stats_),
        queue_(config.batch_age),
        source_(make_source(config, queue_, rejects_, stats_)),
        scorer_(config),
        writer_(config, config.feed, std::move(connection), stats_, rejects_, abandon_) {
    if (!config.listen.empty())
      status_.emplace(
          config.listen, stats_,
          [this] {
            return Gauges{queue_.size(), 0, 0};
          },
          name_, config.database);
  }

  int run(const std::function<std::optional<Config>()>& reread) {
    log::info(
        "feed " + name_ + " into table " + config_.table + ": " +
        (config_.symbols.empty() ? "every cashtag" : std::to_string(config_.symbols.size()) + " symbols"));
    std::thread writing([this] { write_all(); });
    watch(reread);
    source_->stop();
    queue_.close();
    wait_done(config_.drain);
    abandon_ = true;
    wait_done(std::chrono::seconds(2));
    if (!done_) {
      log::error("gave up: the database did not take the last posts in time; the next start asks for them");
      _exit(exit_failed);  // the writer hangs inside libpq
    }
    writing.join();
    if (!failure_.empty()) log::error(failure_);
    log::info("stopped: " + grouped(stats_.rows) + " rows committed in " + grouped(stats_.batches) +
              " batches, " + grouped(stats_.messages) + " messages received, " + grouped(stats_.duplicates) +
              " duplicates, " + grouped(stats_.malformed) + " malformed, " + grouped(stats_.refused) +
              " refused");
    return failure_.empty() ? exit_ok : exit_failed;
  }

 private:
  void write_all() {
    std::thread reading;
    try {
      writer_.open();
      reading = std::thread([this, from = writer_.cursor()] {
        try {
          source_->run(from);
        } catch (const std::exception& error) {
          fail(error.what());
        }
        queue_.close();
      });
      std::vector<Post> batch;
      std::int64_t cursor = 0;
      auto cursor_due = Clock::now() + commit_cursor_every;
      while (queue_.take(batch, cursor)) {
        score(batch);
        const bool due = cursor > writer_.cursor() && (Clock::now() >= cursor_due || queue_.closed());
        if (!batch.empty() || due) {
          writer_.write(batch, cursor);
          cursor_due = Clock::now() + commit_cursor_every;
        }
        if (unscored_ && scorer_.remote() && scorer_.ready()) unscored_ = writer_.score_again(scorer_);
        if (batch.empty()) continue;
        stats_.lag_us = (now() - batch.front().received).count();
        stats_.max_lag_us = std::max(stats_.max_lag_us.load(), stats_.lag_us.load());
        stats_.committed_at_us =
            std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch()).count();
      }
    } catch (const Abandoned&) {
      fail("what the database did not take is asked for again at the next start");
    } catch (const std::exception& error) {
      fail(error.what());
    }
    source_->stop();
    if (reading.joinable()) reading.join();
    done_ = true;
    wake_supervision();
  }

  void score(std::vector<Post>& posts) {
    std::vector<std::string_view> texts;
    for (const auto& post : posts) texts.push_back(post.text);
    const auto scores = scorer_.score(texts);
    for (std::size_t i = 0; scores && i < posts.size(); ++i) posts[i].sentiment = (*scores)[i];
    unscored_ = unscored_ || !scores;
  }

  void fail(const std::string& why) {
    const std::lock_guard hold(guard_);
    if (failure_.empty()) failure_ = why;
    failed_ = true;
    wake_supervision();
  }

  // Until a signal, or a failure.
  void watch(const std::function<std::optional<Config>()>& reread) {
    auto logged_at = Clock::now();
    while (!done_ && !failed_) {
      const int signal = wait_for_signal(1000);
      if (signal == SIGHUP) {
        const auto fresh = reread ? reread() : std::nullopt;
        if (!fresh) {
          log::error("the configuration was not changed");
        } else {
          source_->replace(*fresh);
          log::info("configuration read again: " + std::to_string(fresh->symbols.size()) + " symbols");
        }
      } else if (signal != 0) {
        return log::info("stopping: committing what was received");
      }
      if (Clock::now() - logged_at < log_interval) continue;
      logged_at = Clock::now();
      log::info("rows " + grouped(stats_.rows) + "  messages " + grouped(stats_.messages) +
                (stats_.connected ? "  connected" : "  NOT CONNECTED"));
    }
  }

  void wait_done(std::chrono::microseconds most) {
    const auto until = Clock::now() + most;
    while (!done_ && Clock::now() < until) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }

  const Config& config_;
  std::string name_;
  Stats stats_;
  Rejects rejects_;
  Queue queue_;
  std::unique_ptr<Source> source_;
  std::atomic<bool> abandon_{false};
  Scorer scorer_;
  bool unscored_ = true;  // posts may be in that have no score: an earlier run's, too
  PostWriter writer_;
  std::optional<StatusServer> status_;
  std::atomic<bool> done_{false};
  std::atomic<bool> failed_{false};
  std::mutex guard_;
  std::string failure_;
};

class Probe final : public FrameHandler {
 public:
  void opened() override { open = true; }
  bool room() override { return true; }
  bool frame(std::string_view text, std::chrono::system_clock::time_point) override {
    Post post;
    std::int64_t cursor = 0;
    stream_.decode(text, Timestamp{}, post, cursor);
    if (cursor > 0) read = true;
    return true;
  }
  std::atomic<bool> open{false};
  std::atomic<bool> read{false};

 private:
  Jetstream stream_;
};

}  // namespace

int run_posts(const Config& config, const std::function<std::optional<Config>()>& reread) try {
  return Posts(config, config.connection.empty() ? default_connection(config) : config.connection)
      .run(reread);
} catch (const std::exception& error) {
  log::error(error.what());
  return exit_failed;
}

std::string try_posts(const Config& config, std::chrono::seconds patience) {
  if (find_venue(config.feed)->asks()) {
    const HttpReply reply =
        http_get(*parse_url(config.url, "http"), {config.tls_verify, config.tls_ca}, patience);
    if (reply.status == 0) return reply.body;
    if (reply.status != 200) return "HTTP status " + std::to_string(reply.status);
    std::vector<Post> posts;
    const Decoded decoded = read_articles(reply.body, now(), posts);
    return decoded.verdict == Verdict::malformed ? decoded.reason : "";
  }
  const auto url = parse_url(Jetstream::url(config.url, 0));
  if (!url) return "impossible address " + config.url;
  Client client;
  Probe probe;
  std::string why;
  std::atomic<bool> done{false};
  std::thread thread([&] {
    why = client.run(*url, client_options(config), probe);
    done = true;
  });
  const auto until = Clock::now() + patience;
  while (!done && !probe.read && Clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  client.stop();
  thread.join();
  if (probe.read) return "";
  if (!probe.open) return why.empty() ? "no answer" : why;
  return "no event came that can be read";
}

}  // namespace tick::ingest
