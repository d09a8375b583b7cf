// The steady clock for who asks with every frame and wants to know it to some milliseconds only, as watchdogs
// do: the kernel's last tick, which costs a fifth of the exact time.
#pragma once

#include <time.h>

#include <chrono>

namespace tick::ingest {

inline std::chrono::steady_clock::time_point coarse_now() {
  timespec at;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &at);
  return std::chrono::steady_clock::time_point(std::chrono::seconds(at.tv_sec) +
                                               std::chrono::nanoseconds(at.tv_nsec));
}

}  // namespace tick::ingest
