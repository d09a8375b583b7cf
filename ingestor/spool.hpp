// Ticks on disk while the database is away: a queue of segment files, appended at one end and read at the
// other, that survives the process. Each tick is a record with its length and checksum; a torn end is cut
// off. A segment is deleted after everything in it was committed, so a crash repeats ticks and loses none
// (their ids tell). Not thread safe: the ring guards it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "feed.hpp"

namespace tick::ingest {

// The bytes of one tick on disk, and back; false when they are not a tick.
void append_record(std::string& out, const Tick& tick);
bool take_record(std::string_view& in, Tick& tick);  // false also at a torn end: `in` is then left as it is

class Spool {
 public:
  // Opens the directory (made when missing) and finds what an earlier run left. Throws std::runtime_error
  // when it cannot be used. At most `limit_bytes` on disk; a new segment every `segment_bytes`.
  Spool(std::string directory, std::uint64_t limit_bytes, std::uint64_t segment_bytes = 8u << 20);
  ~Spool();
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;

  // Appends as many ticks as the limit and the disk allow, in order, and returns how many.
  std::size_t append(std::span<const Tick> ticks);
  // Puts ticks that are older than all here before them, for the next run: nothing is taken after it. False
  // when limit or disk do not allow all.
  bool prepend(std::span<const Tick> ticks);
  // Moves up to `most` ticks, the oldest first, into `out`.
  std::size_t take(std::vector<Tick>& out, std::size_t most);
  // Everything that was taken so far is committed: segments that are read to their end are deleted.
  void forget();

  bool empty() const { return waiting_ == 0; }
  std::uint64_t waiting() const { return waiting_; }  // ticks
  std::uint64_t bytes() const { return bytes_; }
  // Hands what was appended to the disk.
  void sync();

 private:
  struct Segment {
    std::uint64_t number;
    std::uint64_t bytes;
    std::uint64_t ticks;
  };
  std::string path(std::uint64_t number) const;
  bool begin_segment();
  bool load(const Segment& segment);

  std::string directory_;
  std::uint64_t limit_;
  std::uint64_t segment_bytes_;
  int lock_ = -1;
  std::deque<Segment> segments_;  // oldest first; the last one is written to while file_ is open
  std::FILE* file_ = nullptr;
  std::string content_;  // of the segment that is read
  std::size_t at_ = 0;
  std::uint64_t reading_ = 0;  // its number, 0: none
  std::size_t read_ = 0;       // segments at the front that are read to their end
  std::uint64_t waiting_ = 0;
  std::uint64_t bytes_ = 0;
  std::string scratch_;
};

}  // namespace tick::ingest
