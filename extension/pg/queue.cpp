#include "queue.hpp"

#include <algorithm>
#include <charconv>

#include "catalog.hpp"
#include "guard.hpp"
#include "session.hpp"
#include "shared.hpp"

namespace tick::pg {
namespace {

constexpr int fetch_rows = 256;

struct RawDelta {
  uint64_t xid;
  int64_t program;
  const char* data;
  size_t size;
};

// The tables of the ring, each read by its index on xid. Without the executor: a turn is short, and setting
// up a query would be a good part of it. Plain PostgreSQL code; palloc'ed, freed with the transaction after
// an error.
struct Ring {
  Relation table[queue_tables];
  Relation index[queue_tables];
  IndexScanDesc scan[queue_tables];
  TupleTableSlot* slot[queue_tables];
  bool there[queue_tables];  // the slot holds the next row
  MemoryContext memory;      // of the payloads of one batch
  Programs programs;
  bool any;  // the scan sees every row, and visibility is tested here
};

// A scan with an MVCC snapshot would leave predicate locks in a SERIALIZABLE transaction, and every other
// writer's delta would be a conflict.
Ring* open_ring(const Programs& programs) {
  auto* ring = static_cast<Ring*>(palloc0(sizeof(Ring)));
  ring->memory = AllocSetContextCreate(CurrentMemoryContext, "pg_tick deltas", ALLOCSET_DEFAULT_SIZES);
  ring->programs = programs;
  ring->any = IsolationIsSerializable();
  for (int i = 0; i < queue_tables; ++i) {
    char name[24];
    snprintf(name, sizeof name, "queue_%d", i);
    ring->table[i] = table_open(catalog_relation(name), AccessShareLock);
    snprintf(name, sizeof name, "queue_%d_xid", i);
    ring->index[i] = index_open(catalog_relation(name), AccessShareLock);
    ring->slot[i] = table_slot_create(ring->table[i], nullptr);
    ring->scan[i] = TICK_INDEX_BEGINSCAN(ring->table[i], ring->index[i],
                                         ring->any ? SnapshotAny : GetActiveSnapshot(), 1);
  }
  return ring;
}

// Moves one of the scans to its next row that is wanted.
void advance(Ring* ring, int i) {
  TupleTableSlot* slot = ring->slot[i];
  while ((ring->there[i] = index_getnext_slot(ring->scan[i], ForwardScanDirection, slot))) {
    bool null;
    const int64 program = DatumGetInt64(slot_getattr(slot, 2, &null));
    if (program < ring->programs.least || program > ring->programs.greatest) continue;
    if (!ring->any || table_tuple_satisfies_snapshot(ring->table[i], slot, GetActiveSnapshot())) return;
  }
}

void close_ring(Ring* ring) {
  for (int i = 0; i < queue_tables; ++i) {
    index_endscan(ring->scan[i]);
    ExecDropSingleTupleTableSlot(ring->slot[i]);
    index_close(ring->index[i], NoLock);
    table_close(ring->table[i], NoLock);
  }
  MemoryContextDelete(ring->memory);
  pfree(ring);
}

void seek(Ring* ring, StrategyNumber strategy, RegProcedure compare, uint64_t xid) {
  ScanKeyData key;
  ScanKeyInit(&key, 1, strategy, compare, FullTransactionIdGetDatum(FullTransactionIdFromU64(xid)));
  for (int i = 0; i < queue_tables; ++i) {
    index_rescan(ring->scan[i], &key, 1, nullptr, 0);
    advance(ring, i);
  }
}

uint64_t xid_of(TupleTableSlot* slot) {
  bool null;
  return U64FromFullTransactionId(DatumGetFullTransactionId(slot_getattr(slot, 1, &null)));
}

// The next rows in the order of their xids, until there are fetch_rows of them or none is left.
int fetch(Ring* ring, RawDelta* deltas) {
  CHECK_FOR_INTERRUPTS();
  MemoryContextReset(ring->memory);
  MemoryContext old = MemoryContextSwitchTo(ring->memory);
  int count = 0;
  while (count < fetch_rows) {
    int least = -1;
    for (int i = 0; i < queue_tables; ++i)
      if (ring->there[i] && (least < 0 || xid_of(ring->slot[i]) < xid_of(ring->slot[least]))) least = i;
    if (least < 0) break;
    TupleTableSlot* slot = ring->slot[least];
    bool null;
    RawDelta* delta = &deltas[count++];
    delta->xid = xid_of(slot);
    delta->program = DatumGetInt64(slot_getattr(slot, 2, &null));
    bytea* payload = DatumGetByteaPCopy(slot_getattr(slot, 3, &null));
    delta->data = VARDATA(payload);
    delta->size = static_cast<size_t>(VARSIZE(payload) - VARHDRSZ);
    // A scan keeps some of what it allocates while it runs: not in the batch's memory.
    MemoryContextSwitchTo(old);
    advance(ring, least);
    MemoryContextSwitchTo(ring->memory);
  }
  MemoryContextSwitchTo(old);
  return count;
}

// Hands over what a search finds; returns the xid at which the limit stopped it, or 0.
uint64_t stream(Ring* ring, StrategyNumber strategy, RegProcedure compare, uint64_t xid, size_t limit,
                size_t& read, const DeltaConsumer& consume) {
  static RawDelta deltas[fetch_rows];
  call([&] { seek(ring, strategy, compare, xid); });
  uint64_t last = 0;
  for (;;) {
    const int count = call([&] { return fetch(ring, deltas); });
    for (int i = 0; i < count; ++i) {
      if (limit != 0 && read >= limit && deltas[i].xid != last) return deltas[i].xid;
      consume(deltas[i].program, {deltas[i].data, deltas[i].size});
      read += deltas[i].size;
      last = deltas[i].xid;
    }
    if (count < fetch_rows) return 0;
  }
}

// Whether a search finds the delta of a transaction below xmax that is wanted.
template <typename Wanted>
bool finds(Ring* ring, StrategyNumber strategy, RegProcedure compare, uint64_t xid, uint64_t xmax,
           Wanted&& wanted) {
  seek(ring, strategy, compare, xid);
  for (int i = 0; i < queue_tables; ++i)
    for (; ring->there[i] && xid_of(ring->slot[i]) < xmax; advance(ring, i))
      if (wanted(xid_of(ring->slot[i]))) return true;
  return false;
}

// Since when a table of the ring is known to be drained: any snapshot that may still need it is older than
// this.
struct Drained {
  Oid relation = InvalidOid;
  uint64_t since = 0;
};
Drained drained[queue_tables];

}  // namespace

Frontier Frontier::parse(std::string_view text) {
  Frontier frontier;
  const char* at = text.data();
  const char* end = at + text.size();
  const auto number = [&](char separator) {
    uint64_t value = 0;
    const auto result = std::from_chars(at, end, value);
    if (result.ec != std::errc{}) throw Error{Error::Code::data_corrupted, "corrupted frontier"};
    at = result.ptr;
    if (at < end && *at == separator) ++at;
    return value;
  };
  frontier.xmin = number(':');
  frontier.xmax = number(':');
  while (at < end) frontier.xip.push_back(number(','));
  return frontier;
}

std::string Frontier::text() const {
  std::string text = std::to_string(xmin) + ":" + std::to_string(xmax) + ":";
  for (size_t i = 0; i < xip.size(); ++i) text += (i == 0 ? "" : ",") + std::to_string(xip[i]);
  return text;
}

bool Frontier::covers(uint64_t xid) const {
  return xid < xmax && !std::binary_search(xip.begin(), xip.end(), xid);
}

Frontier Frontier::below(uint64_t x) const {
  Frontier cut;
  cut.xmax = x;
  for (uint64_t xid : xip)
    if (xid < x) cut.xip.push_back(xid);
  cut.xmin = cut.xip.empty() ? x : cut.xip.front();
  return cut;
}

RingFiles lock_ring() {
  RingFiles files;
  for (int i = 0; i < queue_tables; ++i) {
    char name[16];
    snprintf(name, sizeof name, "queue_%d", i);
    Relation queue = table_open(catalog_relation(name), AccessShareLock);
    files.file[i] = queue->rd_rel->relfilenode;
    table_close(queue, NoLock);
  }
  return files;
}

uint64_t read_deltas(const Frontier& frontier, size_t limit, const DeltaConsumer& consume,
                     Programs programs) {
  size_t read = 0;
  Ring* ring = call([&] { return open_ring(programs); });
  if (!planted("greatest_xid"))
    for (uint64_t xid : frontier.xip)
      (void)stream(ring, BTEqualStrategyNumber, F_XID8EQ, xid, 0, read, consume);
  const uint64_t cut =
      stream(ring, BTGreaterEqualStrategyNumber, F_XID8GE, frontier.xmax, limit, read, consume);
  call([&] { close_ring(ring); });
  return cut;
}

bool has_deltas(const Frontier& before, const Frontier& until, uint64_t own) {
  return call([&] {
    Ring* ring = open_ring({});
    const auto wanted = [&](uint64_t xid) { return xid != own && until.covers(xid); };
    bool found = false;
    for (size_t i = 0; !found && i < before.xip.size(); ++i)
      found = wanted(before.xip[i]) &&
              finds(ring, BTEqualStrategyNumber, F_XID8EQ, before.xip[i], until.xmax, wanted);
    found = found || finds(ring, BTGreaterEqualStrategyNumber, F_XID8GE, before.xmax, until.xmax, wanted);
    close_ring(ring);
    return found;
  });
}

void rotate_queue() {
  DatabaseSlot* slot = my_slot();
  if (slot == nullptr) return;
  const uint32 current = pg_atomic_read_u32(&slot->queue) % queue_tables;
  // The current table last: where each look finds it full and moves on, the others have their turn all the
  // same.
  for (uint32 k = 1; k <= queue_tables; ++k) {
    const uint32 i = (current + k) % queue_tables;
    char name[16];
    snprintf(name, sizeof name, "queue_%u", i);
    enum class Step { none, advance, wait, truncated } step = Step::none;
    bool drained_now = false;
    call([&] {
      StartTransactionCommand();
      const Oid relid = catalog_relation(name);
      if (!OidIsValid(relid)) {
        CommitTransactionCommand();
        return;
      }
      Relation queue = table_open(relid, AccessShareLock);
      const uint64 size = static_cast<uint64>(RelationGetNumberOfBlocks(queue)) * BLCKSZ +
                          (OidIsValid(queue->rd_rel->reltoastrelid)
                               ? [&] {
                                   Relation toast = table_open(queue->rd_rel->reltoastrelid, AccessShareLock);
                                   const uint64 bytes = static_cast<uint64>(RelationGetNumberOfBlocks(toast)) * BLCKSZ;
                                   table_close(toast, AccessShareLock);
                                   return bytes;
                                 }()
                               : 0);
      table_close(queue, AccessShareLock);
      if (size > 0 && i == current) {
        if (size > static_cast<uint64>(tick_queue_size) * 1024) step = Step::advance;
      } else if (size > 0 && i != current) {
        step = Step::wait;
        if (drained[i].relation != relid) drained[i] = {relid, 0};
        // (a) conditionally, and before the snapshot: a waiting lock would stop all writers.
        if (ConditionalLockRelationOid(relid, AccessExclusiveLock)) {
          AcceptInvalidationMessages();
          SPI_connect();
          PushActiveSnapshot(GetTransactionSnapshot());
          // (b) nothing in it that the committed frontier does not cover.
          char sql[256];
          snprintf(sql, sizeof sql,
                   "SELECT 1 FROM tick_catalog.%s q, tick_catalog.frontier f"
                   " WHERE NOT pg_visible_in_snapshot(q.xid, f.snapshot) LIMIT 1",
                   name);
          SPI_execute(sql, true, 1);
          if (SPI_processed == 0) {
            drained_now = true;
            if (drained[i].since == 0)
              drained[i].since = U64FromFullTransactionId(ReadNextFullTransactionId());
            // (c) no snapshot that may still need a row is left.
            queue = table_open(relid, NoLock);
            const TransactionId horizon = GetOldestNonRemovableTransactionId(queue);
            table_close(queue, NoLock);
            const TransactionId since = static_cast<TransactionId>(drained[i].since);
            // The planted bug needs both: (c) alone also waits for a writer whose lock was given back.
            if (TransactionIdFollowsOrEquals(horizon, since) || planted("queue_lock_released")) {
              snprintf(sql, sizeof sql, "TRUNCATE tick_catalog.%s", name);
              SPI_execute(sql, false, 0);
              step = Step::truncated;
            }
          }
          PopActiveSnapshot();
          SPI_finish();
        }
      }
      CommitTransactionCommand();
    });
    if (step == Step::advance) {
      pg_atomic_write_u32(&slot->queue, (current + 1) % queue_tables);
      drained[(current + 1) % queue_tables].since = 0;
      return;
    }
    if (step == Step::truncated || !drained_now) drained[i].since = 0;
  }
}

}  // namespace tick::pg
