#include "leaves.hpp"

#include <algorithm>

#include "guard.hpp"
#include "shared.hpp"

namespace tick::pg {
namespace {

constexpr double chunk_rows = 1e6;

bool holds_rows(Oid relid) {
  return get_rel_relkind(relid) == RELKIND_RELATION;
}

// The rows of a leaf by its size now and how full its pages were when it was last analysed.
void estimate_rows(Leaf* leaf) {
  HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(leaf->relid));
  if (!HeapTupleIsValid(tuple)) return;
  auto* analysed = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple));
  const double per_block =
      analysed->reltuples > 0 && analysed->relpages > 0 ? analysed->reltuples / analysed->relpages : 80;
  ReleaseSysCache(tuple);
  Relation relation = table_open(leaf->relid, NoLock);
  leaf->blocks = RelationGetNumberOfBlocks(relation);
  leaf->rows = leaf->blocks * per_block;
  table_close(relation, NoLock);
}

// Narrows bounds by those that a child has in its parent, if that is partitioned by range of a time column.
void narrow_bounds(Relation parent, const char* time, Oid child, Bounds* bounds) {
  PartitionKey key = RelationGetPartitionKey(parent);
  if (key->strategy != PARTITION_STRATEGY_RANGE || key->partnatts != 1 || key->partattrs[0] == 0 ||
      (key->parttypid[0] != TIMESTAMPOID && key->parttypid[0] != TIMESTAMPTZOID))
    return;
  const char* column = NameStr(TupleDescAttr(RelationGetDescr(parent), key->partattrs[0] - 1)->attname);
  if (time != nullptr && strcmp(column, time) != 0) return;
  PartitionDesc partitions = RelationGetPartitionDesc(parent, false);
  const PartitionBoundInfo info = partitions->boundinfo;
  if (info == nullptr) return;
  if (info->default_index >= 0 && partitions->oids[info->default_index] == child) {
    if (bounds->kind == Bounds::any) bounds->kind = Bounds::rest;
    return;
  }
  const auto bound = [&](int at) -> Micros {
    switch (info->kind[at][0]) {
      case PARTITION_RANGE_DATUM_MINVALUE:
        return minus_infinity;
      case PARTITION_RANGE_DATUM_MAXVALUE:
        return plus_infinity;
      default:
        return DatumGetInt64(info->datums[at][0]);
    }
  };
  for (int at = 1; at < info->ndatums; ++at) {
    const int partition = info->indexes[at];
    if (partition < 0 || partitions->oids[partition] != child) continue;
    bounds->kind = Bounds::known;
    bounds->lo = std::max(bounds->lo, bound(at - 1));
    bounds->hi = std::min(bounds->hi, bound(at));
    return;
  }
}

}  // namespace

Bounds find_bounds(Oid source, Oid table, AttrNumber time_attribute) {
  Bounds bounds{Bounds::any, minus_infinity, plus_infinity};
  const char* time = time_attribute == 0 ? nullptr : get_attname(source, time_attribute, false);
  while (table != source && get_rel_relispartition(table)) {
    const Oid above = get_partition_parent(table, true);
    Relation parent = table_open(above, AccessShareLock);
    narrow_bounds(parent, time, table, &bounds);
    table_close(parent, NoLock);
    table = above;
  }
  return bounds;
}

std::optional<std::vector<Leaf>> lock_leaves(Oid source, AttrNumber time_attribute) {
  Leaf* leaves = nullptr;
  int count = 0;
  const bool locked = call([&] {
    if (planted("snapshot_before_lock")) LockRelationOid(source, AccessShareLock);
    if (!ConditionalLockRelationOid(source, AccessShareLock)) return false;
    List* relations = find_all_inheritors(source, NoLock, nullptr);
    ListCell* cell;
    foreach (cell, relations)
      if (!ConditionalLockRelationOid(lfirst_oid(cell), AccessShareLock)) return false;
    if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(source)))
      ereport(ERROR,
              (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("source of a rollup does not exist any more")));
    leaves = static_cast<Leaf*>(palloc0(sizeof(Leaf) * (list_length(relations) + 1)));
    foreach (cell, relations) {
      const Oid relid = lfirst_oid(cell);
      if (!holds_rows(relid)) continue;
      Leaf* leaf = &leaves[count++];
      leaf->relid = relid;
      estimate_rows(leaf);
      if (time_attribute == 0) continue;
      const Bounds bounds = find_bounds(source, relid, time_attribute);
      leaf->bounded = bounds.kind == Bounds::known;
      leaf->lo = bounds.lo;
      leaf->hi = bounds.hi;
    }
    return true;
  });
  if (!locked) return std::nullopt;
  return std::vector<Leaf>(leaves, leaves + count);
}

bool same_leaves(Oid source, const std::vector<Leaf>& leaves) {
  return call([&] {
    List* relations = find_all_inheritors(source, NoLock, nullptr);
    size_t found = 0;
    ListCell* cell;
    foreach (cell, relations) {
      const Oid relid = lfirst_oid(cell);
      if (!holds_rows(relid)) continue;
      bool known = false;
      for (size_t i = 0; i < leaves.size(); ++i)
        if (leaves[i].relid == relid) known = true;
      if (!known) return false;
      ++found;
    }
    return found == leaves.size();
  });
}

void narrow_to_leaves(const std::vector<Leaf>& leaves, const WindowSize& size, Micros& lo, Micros hi) {
  std::vector<Leaf> bounded;
  for (const Leaf& leaf : leaves)
    if (leaf.bounded && leaf.lo < hi && leaf.hi > lo) bounded.push_back(leaf);
  std::sort(bounded.begin(), bounded.end(), [](const Leaf& a, const Leaf& b) { return a.lo > b.lo; });
  double rows = 0;
  for (size_t i = 0; i + 1 < bounded.size(); ++i) {
    rows += bounded[i].rows;
    const Micros start = begin_of_rows(window_start(bounded[i].lo, size), size);
    if (rows < chunk_rows || start <= lo) continue;
    lo = start;
    return;
  }
}

}  // namespace tick::pg
