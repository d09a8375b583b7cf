// Watches that sources and all their leaves carry the capture triggers, ENABLE ALWAYS (ENGINE 1.5): DISABLE
// TRIGGER, pg_restore --disable-triggers and ATTACH PARTITION would lose rows silently.
#pragma once

#include "pg.hpp"

namespace tick::pg {

// While triggers are being changed by ourselves, DDL is not audited. Returns whether it was paused already;
// an error resumes it at the end of the (sub)transaction.
bool pause_audit(bool pause);

// Refuses TRUNCATE of a leaf, given as qualified and quoted name. As the extension's owner.
void guard_leaf(const char* leaf);

// Makes all triggers of a source fire again that pg_restore --disable-triggers has weakened: no rows were
// missed. Leaves that to the audit if somebody holds the source. May ereport, as the extension's owner.
void guard_again(Oid source);

// Refuses to work for a trigger that the extension has not made: everybody may call its functions, as
// PostgreSQL demands that of who makes a partition; and who may create triggers on a table must not have its
// rows counted twice, or another table's. May ereport.
void check_trigger(const Trigger* trigger, Relation relation, Oid source);

// For the worker: true if some relation changed since the last call, so that a look is due.
void watch_relations();
bool relations_changed();
void expect_audit();  // at once
bool audit_expected();

// Restores missing triggers and has the rollups recomputed, as rows may have been missed. A transaction of
// its own. Throws PgError.
void audit_sources();

}  // namespace tick::pg
