#include "shared.hpp"

namespace tick::pg {
namespace {

struct Shared {
  LWLock* lock;
  Latch* launcher;
  DatabaseSlot slots[max_databases];
};

Shared* shared = nullptr;
DatabaseSlot* mine = nullptr;
bool wake_requested = false;

}  // namespace

bool preloaded() {
  return shared != nullptr;
}
LWLock* shared_lock() {
  return shared->lock;
}
DatabaseSlot* slot_at(int index) {
  return &shared->slots[index];
}
void set_launcher_latch(Latch* latch) {
  shared->launcher = latch;
}

void shared_request() {
  RequestAddinShmemSpace(MAXALIGN(sizeof(Shared)));
  RequestNamedLWLockTranche("pg_tick", 1);
}

void shared_startup() {
  bool found;
  LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
  shared = static_cast<Shared*>(ShmemInitStruct("pg_tick", sizeof(Shared), &found));
  if (!found) {
    memset(static_cast<void*>(shared), 0, sizeof(Shared));
    shared->lock = &GetNamedLWLockTranche("pg_tick")->lock;
    for (DatabaseSlot& slot : shared->slots) {
      pg_atomic_init_u32(&slot.requested, 0);
      pg_atomic_init_u32(&slot.sleeping, 0);
      pg_atomic_init_u32(&slot.queue, 0);
      pg_atomic_init_u64(&slot.pending, 0);
      pg_atomic_init_u64(&slot.waiting_since, 0);
      pg_atomic_init_u64(&slot.last_lag, 0);
      pg_atomic_init_u64(&slot.turns, 0);
      pg_atomic_init_u32(&slot.listeners, 0);
      pg_atomic_init_u64(&slot.held_for, 0);
      pg_atomic_init_u64(&slot.measured, 0);
      pg_atomic_init_u32(&slot.helper.stop, 0);
      pg_atomic_init_u64(&slot.helper.rows, 0);
      pg_atomic_init_u64(&slot.helper.rows_expected, 0);
      pg_atomic_init_u64(&slot.helper.started_at, 0);
    }
  }
  LWLockRelease(AddinShmemInitLock);
}

DatabaseSlot* slot_for(Oid database) {
  if (shared == nullptr) return nullptr;
  DatabaseSlot* result = nullptr;
  LWLockAcquire(shared->lock, LW_EXCLUSIVE);
  for (DatabaseSlot& slot : shared->slots)
    if (slot.database == database) result = &slot;
  for (int i = 0; result == nullptr && i < max_databases; ++i) {
    DatabaseSlot& slot = shared->slots[i];
    if (slot.database != InvalidOid) continue;
    slot.database = database;
    slot.worker = 0;
    slot.next_start = 0;
    slot.failures = 0;
    slot.helper.phase = HelperPhase::absent;
    slot.helper.pid = 0;
    slot.helper.scan = 0;
    slot.computer = {};
    pg_atomic_write_u32(&slot.requested, 0);
    pg_atomic_write_u32(&slot.queue, 0);
    pg_atomic_write_u32(&slot.listeners, 0);
    result = &slot;
  }
  LWLockRelease(shared->lock);
  return result;
}

DatabaseSlot* my_slot() {
  if (shared == nullptr) return nullptr;
  if (mine == nullptr || mine->database != MyDatabaseId) mine = slot_for(MyDatabaseId);
  return mine;
}

void wake(bool with_deltas) {
  DatabaseSlot* slot = my_slot();
  if (slot == nullptr) return;
  if (with_deltas) {
    uint64 none = 0;
    if (pg_atomic_read_u64(&slot->waiting_since) == 0)
      pg_atomic_compare_exchange_u64(&slot->waiting_since, &none, static_cast<uint64>(GetCurrentTimestamp()));
  }
  pg_atomic_fetch_add_u64(&slot->pending, 1);
  if (slot->worker == 0) {
    pg_atomic_write_u32(&slot->requested, 1);
    Latch* launcher = shared->launcher;
    if (launcher != nullptr) SetLatch(launcher);
  } else if (pg_atomic_exchange_u32(&slot->sleeping, 0) != 0) {
    // The latch belongs to a PGPROC: valid memory for ever, and a stray wake-up of its next owner is
    // harmless.
    Latch* latch = slot->latch;
    if (latch != nullptr) SetLatch(latch);
  }
}

void wake_at_commit() {
  wake_requested = true;
}

bool take_wake_request() {
  const bool requested = wake_requested;
  wake_requested = false;
  return requested;
}

#ifdef TICK_FAULTS
bool planted(const char* bug) {
  return tick_debug_bug != nullptr && strcmp(tick_debug_bug, bug) == 0;
}
#endif

}  // namespace tick::pg
