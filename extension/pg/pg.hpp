// The one include of PostgreSQL's headers, and the one place for differences between its versions.
// Its macros break C++ headers that come after it, so it brings those of the core along, first.
#pragma once

#include "../core/fold.hpp"
#include "../core/window.hpp"

// What the server looks up by its name; all else is hidden, and called without a table of addresses.
#define PGDLLEXPORT __attribute__((visibility("default")))

extern "C" {
#include "postgres.h"

#include "access/attmap.h"
#include "access/detoast.h"
#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/toast_internals.h"
#include "access/transam.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/partition.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_am.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "common/int.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/copy.h"
#include "commands/copyfrom_internal.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "commands/progress.h"
#include "commands/tablecmds.h"
#include "commands/tablespace.h"
#include "commands/trigger.h"
#include "commands/view.h"
#include "executor/execPartition.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "funcapi.h"
#include "jit/jit.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "libpq/pqsignal.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_coerce.h"
#include "parser/parse_func.h"
#include "parser/parse_oper.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "pgstat.h"
#include "pgtime.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/procsignal.h"
#include "storage/shmem.h"
#include "tcop/cmdtag.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/date.h"
#include "utils/datum.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/partcache.h"
#include "utils/pg_locale.h"
#include "utils/ps_status.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"
#include "utils/xid8.h"
#include "utils/xml.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
}

// PG 16: pg_class_ownercheck and friends became object_ownercheck.
#if PG_VERSION_NUM >= 160000
#define TICK_OWNS_RELATION(relid, role) object_ownercheck(RelationRelationId, (relid), (role))
#else
#define TICK_OWNS_RELATION(relid, role) pg_class_ownercheck((relid), (role))
#endif

// PG 16: namespace ACL checks go through object_aclcheck.
#if PG_VERSION_NUM >= 160000
#define TICK_MAY_CREATE_IN(nsp, role) \
  (object_aclcheck(NamespaceRelationId, (nsp), (role), ACL_CREATE) == ACLCHECK_OK)
#else
#define TICK_MAY_CREATE_IN(nsp, role) (pg_namespace_aclcheck((nsp), (role), ACL_CREATE) == ACLCHECK_OK)
#endif

// PG 16: tree walkers take typed callbacks; before, an unprototyped one that C++ must be lied to about.
#if PG_VERSION_NUM >= 160000
#define TICK_WALK(node, walker, context) expression_tree_walker((node), (walker), (context))
#define TICK_MUTATE(node, mutator, context) expression_tree_mutator((node), (mutator), (context))
#else
#define TICK_WALK(node, walker, context)                                                             \
  expression_tree_walker((node), reinterpret_cast<bool (*)()>(reinterpret_cast<void (*)()>(walker)), \
                         (context))
#define TICK_MUTATE(node, mutator, context)                                                             \
  expression_tree_mutator((node), reinterpret_cast<Node* (*)()>(reinterpret_cast<void (*)()>(mutator)), \
                          (context))
#endif

// PG 18: what is grouped is a variable of a range table entry of its own, without a place in the text; this
// brings the expressions back, with the place of each.
#if PG_VERSION_NUM >= 180000
inline bool tick_place_grouped(Node* node, void* context) {
  if (node == nullptr) return false;
  if (!IsA(node, Var)) return expression_tree_walker(node, tick_place_grouped, context);
  auto* var = reinterpret_cast<Var*>(node);
  const auto* entry = rt_fetch(var->varno, static_cast<Query*>(context)->rtable);
  if (var->varlevelsup == 0 && var->varattno > 0 && entry->rtekind == RTE_GROUP)
    var->location = exprLocation(static_cast<Node*>(list_nth(entry->groupexprs, var->varattno - 1)));
  return false;
}
#define TICK_UNGROUP(query)                                 \
  (tick_place_grouped((Node*)(query)->targetList, (query)), \
   (query)->targetList = (List*)flatten_group_exprs(nullptr, (query), (Node*)(query)->targetList))
#else
#define TICK_UNGROUP(query) ((void)0)
#endif

// PG 16: the map of a partition's columns is made when it is asked for; some indexes can be left out.
#if PG_VERSION_NUM >= 160000
#define TICK_ROOT_TO_CHILD(leaf, estate) ExecGetRootToChildMap((leaf), (estate))
#define TICK_INSERT_INDEXES(leaf, slot, estate) \
  ExecInsertIndexTuples((leaf), (slot), (estate), false, false, nullptr, NIL, false)
#else
#define TICK_ROOT_TO_CHILD(leaf, estate) ((leaf)->ri_RootToPartitionMap)
#define TICK_INSERT_INDEXES(leaf, slot, estate) \
  ExecInsertIndexTuples((leaf), (slot), (estate), false, false, nullptr, NIL)
#endif

// PG 16: an update says which indexes are to get the new row; some indexes only summarize.
#if PG_VERSION_NUM >= 160000
#define TICK_HEAP_UPDATE(table, place, row, which) simple_heap_update((table), (place), (row), (which))
#define TICK_SUMMARIZES(info) ((info)->ii_Summarizing)
#else
enum TU_UpdateIndexes { TU_None, TU_All, TU_Summarizing };
#define TICK_HEAP_UPDATE(table, place, row, which) \
  (simple_heap_update((table), (place), (row)), *(which) = HeapTupleIsHeapOnly(row) ? TU_None : TU_All)
#define TICK_SUMMARIZES(info) false
#endif

// PG 16: rights have a list of their own; PG 18: so has what is not pruned.
#if PG_VERSION_NUM >= 160000
#define TICK_INSERTED(item) ((item)->p_perminfo->insertedCols)
#else
#define TICK_INSERTED(item) ((item)->p_rte->insertedCols)
#endif
#if PG_VERSION_NUM >= 180000
#define TICK_INIT_RANGE_TABLE(estate, state) \
  ExecInitRangeTable((estate), (state)->p_rtable, (state)->p_rteperminfos, bms_make_singleton(1))
#elif PG_VERSION_NUM >= 160000
#define TICK_INIT_RANGE_TABLE(estate, state) \
  ExecInitRangeTable((estate), (state)->p_rtable, (state)->p_rteperminfos)
#else
#define TICK_INIT_RANGE_TABLE(estate, state) ExecInitRangeTable((estate), (state)->p_rtable)
#endif

// PG 18: generated columns can be virtual.
#if PG_VERSION_NUM >= 180000
#define TICK_HAS_GENERATED(constraints) \
  ((constraints)->has_generated_stored || (constraints)->has_generated_virtual)
#else
#define TICK_HAS_GENERATED(constraints) ((constraints)->has_generated_stored)
#endif

// PG 18: index scans can be instrumented.
#if PG_VERSION_NUM >= 180000
#define TICK_INDEX_BEGINSCAN(table, index, snapshot, keys) \
  index_beginscan(table, index, snapshot, nullptr, keys, 0)
#else
#define TICK_INDEX_BEGINSCAN(table, index, snapshot, keys) index_beginscan(table, index, snapshot, keys, 0)
#endif

// PG 18: what a collation is like is asked of its locale.
#if PG_VERSION_NUM >= 180000
#define TICK_COLLATES_BY_BYTES(collation) (pg_newlocale_from_collation(collation)->collate_is_c)
#else
#define TICK_COLLATES_BY_BYTES(collation) lc_collate_is_c(collation)
#endif

// PG 18: operators are looked up in the families of every ordering index.
#if PG_VERSION_NUM >= 180000
#define TICK_ORDERINGS_WITH(op) get_op_index_interpretation(op)
#else
#define TICK_ORDERINGS_WITH(op) get_op_btree_interpretation(op)
#endif

// PG 16: columns may be missing when the caller allows it.
#if PG_VERSION_NUM >= 160000
#define TICK_MAP_BY_NAME(from, to) build_attrmap_by_name((from), (to), false)
#else
#define TICK_MAP_BY_NAME(from, to) build_attrmap_by_name((from), (to))
#endif

// PG 17: an extension's wait events have names.
#if PG_VERSION_NUM >= 170000
#define TICK_WAIT_EVENT(name) WaitEventExtensionNew(name)
#else
#define TICK_WAIT_EVENT(name) PG_WAIT_EXTENSION
#endif
