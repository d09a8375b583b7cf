// What the processes of one cluster share: a slot per database with the worker's latch, the wake-up flags,
// the queue table that writers should use, and counters. Nothing here decides correctness: losing all of it
// costs time. Slots are found under the LWLock, used through atomics; release happens in before_shmem_exit
// callbacks only.
#pragma once

#include <cstdint>

#include "pg.hpp"

namespace tick::pg {

inline constexpr int max_databases = 128;
inline constexpr int queue_tables = 3;
inline constexpr uint64 turn_samples = 256;

// One turn that changed something.
struct TurnSample {
  TimestampTz started;
  uint64 micros;
  int64 deltas, rows;
};

// The helper process of a database that scans history for its worker (helper.cpp). Read and written under
// shared_lock(), but for the atomics.
enum class HelperPhase : uint32 { absent, starting, idle, given, running };
struct HelperSlot {
  HelperPhase phase;
  pid_t pid;
  Latch* latch;  // valid while pid != 0
  TimestampTz asked_at;
  // The order, from `given` until the scan ends.
  int64 scan;
  int32 rollup;
  int64 lo, hi;
  bool yields;  // to whoever waits for a lock on the source
  char snapshot[64];
  // Answers.
  int64 accepted;   // the last scan that was begun
  int64 failed;     // the last scan that ended by an error of its rollup
  char error[256];  // which was this
  pg_atomic_uint32 stop;
  pg_atomic_uint64 rows, rows_expected, started_at;
};

// The process of a database that computes what cannot be merged (compute.cpp). Under shared_lock().
struct ComputerSlot {
  pid_t pid;             // 0 = none
  Latch* latch;          // valid while pid != 0
  TimestampTz asked_at;  // when it was to be started
};

// One database that has, or may have, rollups.
struct DatabaseSlot {
  Oid database;
  pid_t worker;                    // 0 = none
  Latch* latch;                    // the worker's, valid while worker != 0
  pg_atomic_uint32 requested;      // the launcher should start a worker
  pg_atomic_uint32 sleeping;       // the worker waits for its latch: set it after `pending`
  pg_atomic_uint32 queue;          // hint: which table of the ring writers append to
  pg_atomic_uint64 pending;        // commits with deltas since the cluster started
  pg_atomic_uint64 waiting_since;  // TimestampTz of the first commit not yet taken up, 0 = none
  pg_atomic_uint64 last_lag;       // microseconds from that commit to its merge's commit
  pg_atomic_uint64 turns;
  pg_atomic_uint32 listeners;  // sessions that have listened to a rollup
  pg_atomic_uint64 held_for;   // microseconds for which somebody has held back the xmin horizon
  TimestampTz started_at;      // the worker's
  pg_atomic_uint64 measured;   // turns that are, or were, in `samples`; written by the worker alone
  TurnSample samples[turn_samples];
  TimestampTz next_start;  // launcher only: not before
  int failures;            // launcher only: consecutive
  HelperSlot helper;
  ComputerSlot computer;
};

// GUCs, defined in module.cpp.
extern int tick_lock_timeout;   // ms
extern int tick_turn_interval;  // ms
extern int tick_queue_size;     // kB after which writers move on to the next table of the ring
extern int tick_turn_memory;    // kB of deltas that one turn reads
extern int tick_scan_size;      // kB of history above which a helper process scans it
extern bool tick_corrections;   // a DELETE takes its rows out of candles
extern bool tick_fast_copy;     // COPY into a source fires no trigger for each row
extern int tick_truncate;       // what a TRUNCATE of a source does
inline constexpr int truncate_refuse = 0, truncate_retention = 1;
#ifdef TICK_FAULTS
extern char* tick_debug_bug;  // a planted bug, for the tests that must notice it
bool planted(const char* bug);
#else
constexpr bool planted(const char*) {
  return false;
}
#endif

// True if the library was loaded by shared_preload_libraries.
bool preloaded();

void shared_request();
void shared_startup();

// The slot of this database, or nullptr if none exists (or not preloaded). Never raises.
DatabaseSlot* my_slot();
// The slot of a database, made if missing; nullptr if the table is full.
DatabaseSlot* slot_for(Oid database);
DatabaseSlot* slot_at(int index);
LWLock* shared_lock();
void set_launcher_latch(Latch* latch);

// Tells the worker of this database that something was committed; starts it if there is none. Never raises.
void wake(bool with_deltas);
// Asks for a wake() when, and only if, the current transaction commits.
void wake_at_commit();
// True once per transaction that called wake_at_commit; resets.
bool take_wake_request();

}  // namespace tick::pg
