// The bounded ring between the threads that receive and the thread that writes, and the rule that cuts
// batches: a batch leaves when it is full or when its oldest tick has waited long enough. While PostgreSQL is
// away the ring fills, then ticks go to the spool on disk, and from there in their order once it is back.
// Without a spool push() takes nothing more and the receiver stops reading. Only a spool at its limit drops
// ticks: the newest ones, counted, and their ids stay a gap that repair can fill.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "feed.hpp"
#include "spool.hpp"

namespace tick::ingest {

// Any number of producers and observers, one consumer.
class Ring {
 public:
  using Clock = std::chrono::steady_clock;

  // Grows up to `capacity` ticks; a batch has at most `batch_rows` and waits at most `batch_age`.
  Ring(std::size_t capacity, std::size_t batch_rows, std::chrono::microseconds batch_age);

  // From now on what does not fit goes to disk; what is there already leaves first.
  void spool_to(std::unique_ptr<Spool> spool);
  // Moves what the consumer still has in hand and everything that is here into the spool; false when it
  // cannot keep all of it.
  bool save(std::span<const Tick> in_hand);

  // Takes as many ticks as fit, in order, and returns how many. (With a spool: all of them, or they are
  // dropped.)
  std::size_t push(std::span<const Tick> ticks);
  // The same, but waits for room; false when the ring was closed before everything fitted.
  bool push_wait(std::span<const Tick> ticks);

  // Waits for a batch and moves it into `out` (cleared first). False: closed and empty.
  bool take(std::vector<Tick>& out);

  // No more ticks will come: what is inside leaves at once, then take() returns false.
  void close();

  std::size_t size() const;
  std::uint64_t spooled() const;  // ticks on disk
  std::uint64_t dropped() const;  // because the spool was full
  std::size_t capacity() const { return capacity_; }

 private:
  void grow();
  std::size_t push_locked(std::span<const Tick> ticks, bool& wake);

  mutable std::mutex guard_;
  std::condition_variable filled_;
  std::condition_variable emptied_;
  std::vector<Tick> slots_;  // a power of two, doubled on demand up to capacity_
  std::size_t capacity_;
  std::size_t batch_rows_;
  std::chrono::microseconds batch_age_;
  std::size_t head_ = 0;
  std::size_t count_ = 0;
  Clock::time_point oldest_{};
  std::unique_ptr<Spool> spool_;
  std::uint64_t dropped_ = 0;
  bool spooling_ = false;
  bool from_disk_ = false;  // what the consumer has in hand
  bool waiting_for_room_ = false;
  bool closed_ = false;
};

}  // namespace tick::ingest
