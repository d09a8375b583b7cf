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

Datum xid_array(const std::vector<uint64_t>& xids) {
  Datum* values = static_cast<Datum*>(palloc(sizeof(Datum) * (xids.size() + 1)));
  for (size_t i = 0; i < xids.size(); ++i)
    values[i] = FullTransactionIdGetDatum(FullTransactionIdFromU64(xids[i]));
  return PointerGetDatum(
      construct_array(values, static_cast<int>(xids.size()), XID8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

// Streams one query of (xid, program, payload); returns the xid at which it stopped, or 0.
uint64_t stream(const char* sql, Oid type, const std::function<Datum()>& argument, size_t limit, size_t& read,
                const DeltaConsumer& consume) {
  Portal portal = nullptr;
  const Datum value = argument();
  call([&] {
    Oid types[1] = {type};
    Datum values[1] = {value};
    portal = SPI_cursor_open(nullptr, kept_plan(sql, 1, types), values, nullptr, true);
  });
  uint64_t last = 0, stopped = 0;
  std::vector<RawDelta> deltas(fetch_rows);
  while (stopped == 0) {
    SPITupleTable* table = nullptr;
    uint64_t count = 0;
    call([&] {
      SPI_cursor_fetch(portal, true, fetch_rows);
      table = SPI_tuptable;
      count = SPI_processed;
      for (uint64_t i = 0; i < count; ++i) {
        bool null;
        deltas[i].xid = U64FromFullTransactionId(
            DatumGetFullTransactionId(SPI_getbinval(table->vals[i], table->tupdesc, 1, &null)));
        deltas[i].program = DatumGetInt64(SPI_getbinval(table->vals[i], table->tupdesc, 2, &null));
        bytea* payload = DatumGetByteaPP(SPI_getbinval(table->vals[i], table->tupdesc, 3, &null));
        deltas[i].data = VARDATA_ANY(payload);
        deltas[i].size = static_cast<size_t>(VARSIZE_ANY_EXHDR(payload));
      }
    });
    for (uint64_t i = 0; i < count && stopped == 0; ++i) {
      if (limit != 0 && read >= limit && deltas[i].xid != last) {
        stopped = deltas[i].xid;
        break;
      }
      consume(deltas[i].program, {deltas[i].data, deltas[i].size});
      read += deltas[i].size;
      last = deltas[i].xid;
    }
    call([&] { SPI_freetuptable(table); });
    if (count < fetch_rows) break;
  }
  call([&] { SPI_cursor_close(portal); });
  return stopped;
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

uint64_t read_deltas(const Frontier& frontier, size_t limit, const DeltaConsumer& consume) {
  size_t read = 0;
  if (!frontier.xip.empty() && !planted("greatest_xid"))
    stream(
        "SELECT xid, program, payload FROM tick_catalog.queue_0 WHERE xid = ANY ($1)"
        " UNION ALL SELECT xid, program, payload FROM tick_catalog.queue_1 WHERE xid = ANY ($1)"
        " UNION ALL SELECT xid, program, payload FROM tick_catalog.queue_2 WHERE xid = ANY ($1)",
        get_array_type(XID8OID), [&] { return call([&] { return xid_array(frontier.xip); }); }, 0, read,
        consume);
  return stream(
      "SELECT xid, program, payload FROM (SELECT * FROM tick_catalog.queue_0"
      " UNION ALL SELECT * FROM tick_catalog.queue_1 UNION ALL SELECT * FROM tick_catalog.queue_2) q"
      " WHERE xid >= $1 ORDER BY xid",
      XID8OID,
      [&] {
        return call([&] { return FullTransactionIdGetDatum(FullTransactionIdFromU64(frontier.xmax)); });
      },
      limit, read, consume);
}

void rotate_queue() {
  DatabaseSlot* slot = my_slot();
  if (slot == nullptr) return;
  const uint32 current = pg_atomic_read_u32(&slot->queue) % queue_tables;
  for (uint32 i = 0; i < queue_tables; ++i) {
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
