#include "partitions.hpp"

namespace tick::pg {

TimePartitions read_partitions(Relation source) {
  TimePartitions result{};
  if (source->rd_rel->relkind != RELKIND_PARTITIONED_TABLE) return result;
  const PartitionKey key = RelationGetPartitionKey(source);
  result.by_time = key->strategy == PARTITION_STRATEGY_RANGE && key->partnatts == 1 &&
                   key->partattrs[0] > 0 &&
                   (key->parttypid[0] == TIMESTAMPOID || key->parttypid[0] == TIMESTAMPTZOID);
  const PartitionDesc partitions = RelationGetPartitionDesc(source, true);
  const PartitionBoundInfo bounds = partitions->boundinfo;
  if (bounds == nullptr) return result;
  if (bounds->default_index >= 0) result.attic = partitions->oids[bounds->default_index];
  if (!result.by_time) return result;
  result.attribute = key->partattrs[0];
  result.type = key->parttypid[0];
  result.list = static_cast<TimePartition*>(palloc(sizeof(TimePartition) * (partitions->nparts + 1)));
  const auto bound = [&](int at) -> Micros {
    switch (bounds->kind[at][0]) {
      case PARTITION_RANGE_DATUM_MINVALUE:
        return minus_infinity;
      case PARTITION_RANGE_DATUM_MAXVALUE:
        return plus_infinity;
      default:
        return DatumGetInt64(bounds->datums[at][0]);
    }
  };
  for (int at = 1; at < bounds->ndatums; ++at) {
    const int partition = bounds->indexes[at];
    if (partition < 0) continue;
    result.list[result.count++] = {partitions->oids[partition], bound(at - 1), bound(at)};
  }
  return result;
}

}  // namespace tick::pg
