// The ring and the batch rule; see batch.hpp. The consumer is woken at most twice per batch (first tick,
// full), not once per tick: that is what keeps 20,000 frames/s cheap.
#include "batch.hpp"

#include <algorithm>

#include "log.hpp"

namespace tick::ingest {

namespace {
constexpr std::size_t first_slots = 1024;
}

Ring::Ring(std::size_t capacity, std::size_t batch_rows, std::chrono::microseconds batch_age)
    : slots_(std::min(first_slots, std::max<std::size_t>(capacity, 1))),
      capacity_(std::max<std::size_t>(capacity, 1)),
      batch_rows_(std::clamp<std::size_t>(batch_rows, 1, std::max<std::size_t>(capacity, 1))),
      batch_age_(batch_age) {}

void Ring::grow() {
  std::vector<Tick> bigger(std::min(capacity_, slots_.size() * 2));
  for (std::size_t i = 0; i < count_; ++i) bigger[i] = slots_[(head_ + i) % slots_.size()];
  slots_.swap(bigger);
  head_ = 0;
}

void Ring::spool_to(std::unique_ptr<Spool> spool) {
  const std::lock_guard hold(guard_);
  spool_ = std::move(spool);
}

bool Ring::save(std::span<const Tick> in_hand) {
  const std::lock_guard hold(guard_);
  if (!spool_) return in_hand.empty() && count_ == 0;
  std::vector<Tick> here;
  if (!from_disk_) here.assign(in_hand.begin(), in_hand.end());
  for (std::size_t i = 0; i < count_; ++i) here.push_back(slots_[(head_ + i) % slots_.size()]);
  // What the consumer has from disk is still there, and the ring came later. Otherwise both are older than
  // the disk.
  if (from_disk_ ? spool_->append(here) < here.size() : !spool_->prepend(here)) return false;
  count_ = 0;
  spool_->sync();
  return true;
}

std::size_t Ring::push(std::span<const Tick> ticks) {
  bool wake = false;
  std::size_t taken = 0;
  {
    const std::lock_guard hold(guard_);
    if (closed_) return 0;
    if (!spool_) {
      taken = push_locked(ticks, wake);
    } else {
      if (spool_->empty()) {
        taken = push_locked(ticks, wake);
        if (spooling_ && taken == ticks.size()) {
          log::info("the spool is drained");
          spooling_ = false;
        }
      }
      if (taken < ticks.size()) {
        if (!spooling_)
          log::warn("the ring is full: ticks go to the spool until the database takes them again");
        spooling_ = true;
        const auto rest = ticks.subspan(taken);
        const std::size_t kept = spool_->append(rest);
        if (kept < rest.size() && dropped_ == 0)
          log::error(
              "the spool is full or cannot be written: ticks are dropped until the database takes some");
        dropped_ += rest.size() - kept;
        taken = ticks.size();
        wake = true;
      }
    }
  }
  if (wake) filled_.notify_one();
  return taken;
}

std::size_t Ring::push_locked(std::span<const Tick> ticks, bool& wake) {
  const std::size_t taken = std::min(ticks.size(), capacity_ - count_);
  if (taken == 0) return 0;
  while (count_ + taken > slots_.size()) grow();
  if (count_ == 0) {
    oldest_ = Clock::now();
    wake = true;
  }
  const std::size_t before = count_;
  std::size_t at = (head_ + count_) % slots_.size();
  for (std::size_t i = 0; i < taken; ++i) {
    slots_[at] = ticks[i];
    if (++at == slots_.size()) at = 0;
  }
  count_ += taken;
  wake = wake || (before < batch_rows_ && count_ >= batch_rows_);
  return taken;
}

bool Ring::push_wait(std::span<const Tick> ticks) {
  for (;;) {
    ticks = ticks.subspan(push(ticks));
    if (ticks.empty()) return true;
    std::unique_lock hold(guard_);
    waiting_for_room_ = true;
    emptied_.wait(hold, [&] { return closed_ || count_ < capacity_; });
    waiting_for_room_ = false;
    if (closed_) return false;
  }
}

bool Ring::take(std::vector<Tick>& out) {
  out.clear();
  std::unique_lock hold(guard_);
  if (spool_) spool_->forget();  // the caller is back: what it had is committed
  from_disk_ = false;
  filled_.wait(hold, [&] { return closed_ || count_ > 0 || (spool_ && !spool_->empty()); });
  if (count_ == 0 && spool_ && !spool_->empty()) {
    // On closing, too: what the database takes now need not wait for the next start.
    spool_->take(out, batch_rows_);
    from_disk_ = !out.empty();
    if (from_disk_) return true;
  }
  if (count_ == 0) return false;
  filled_.wait_until(hold, oldest_ + batch_age_, [&] { return closed_ || count_ >= batch_rows_; });
  const std::size_t n = std::min(count_, batch_rows_);
  out.reserve(n);
  for (std::size_t i = 0; i < n; ++i) {
    out.push_back(slots_[head_]);
    if (++head_ == slots_.size()) head_ = 0;
  }
  count_ -= n;
  // What stays has been waiting for an unknown time already: it may leave as soon as the consumer is back.
  const bool wake = waiting_for_room_;
  hold.unlock();
  if (wake) emptied_.notify_all();
  return true;
}

void Ring::close() {
  {
    const std::lock_guard hold(guard_);
    closed_ = true;
  }
  filled_.notify_all();
  emptied_.notify_all();
}

std::size_t Ring::size() const {
  const std::lock_guard hold(guard_);
  return count_;
}

std::uint64_t Ring::spooled() const {
  const std::lock_guard hold(guard_);
  return spool_ ? spool_->waiting() : 0;
}

std::uint64_t Ring::dropped() const {
  const std::lock_guard hold(guard_);
  return dropped_;
}

}  // namespace tick::ingest
