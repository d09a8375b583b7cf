// The bounded ring between the thread that receives and the thread that writes, and the rule that cuts
// batches: a batch leaves when it is full or when its oldest tick has waited long enough. There is no spool
// to disk yet: while PostgreSQL is away the ring fills, then push() takes nothing more and the receiver stops
// reading (backpressure on the socket). Nothing that was pushed is ever dropped here.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <span>
#include <vector>

#include "feed.hpp"

namespace tick::ingest {

// One producer, one consumer, any number of observers.
class Ring {
 public:
  using Clock = std::chrono::steady_clock;

  // Grows up to `capacity` ticks; a batch has at most `batch_rows` and waits at most `batch_age`.
  Ring(std::size_t capacity, std::size_t batch_rows, std::chrono::microseconds batch_age);

  // Takes as many ticks as fit, in order, and returns how many.
  std::size_t push(std::span<const Tick> ticks);
  // The same, but waits for room; false when the ring was closed before everything fitted.
  bool push_wait(std::span<const Tick> ticks);

  // Waits for a batch and moves it into `out` (cleared first). False: closed and empty.
  bool take(std::vector<Tick>& out);

  // No more ticks will come: what is inside leaves at once, then take() returns false.
  void close();

  std::size_t size() const;
  std::size_t capacity() const { return capacity_; }

 private:
  void grow();

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
  bool waiting_for_room_ = false;
  bool closed_ = false;
};

}  // namespace tick::ingest
