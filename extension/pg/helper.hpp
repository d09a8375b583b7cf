// A process beside the worker that scans history, so that live deltas need not wait for it. It reads in the
// snapshot of the turn that started the scan, which becomes the frontier: what that snapshot sees is found by
// the scan, all else arrives as deltas. What it finds it writes in pieces, in one transaction, and the worker
// merges them. At most one runs in a database; it ends by itself when there is nothing to do.
#pragma once

#include <optional>
#include <string>

#include "rollup.hpp"
#include "shared.hpp"

namespace tick::pg {

// ---- for the worker

struct HelperView {
  HelperPhase phase;
  int64_t scan;  // that it works on, 0 = none
};

// What the helper does now. Look before a snapshot is taken: a scan that was over before has its pieces in
// it.
HelperView look_at_helper();

// Asks for the process. False if there is no room for it (max_worker_processes).
bool start_helper();

struct ScanOrder {
  int rollup;
  int64_t scan;
  Micros lo, hi;
  double rows;  // expected
  bool yields;  // ends early when somebody waits for a lock on the source
};

// Hands an order to an idle helper, with the active snapshot, in whose transaction the source's leaves are
// locked. True if it has the snapshot and the locks now, so that this transaction may end. Throws PgError.
bool hand_over(const ScanOrder& order);

// Ends the scan that runs: nobody wants its pieces.
void stop_scan(int64_t scan);

// Why a scan failed, if an error of the rollup itself was the reason.
std::optional<std::string> scan_error(int64_t scan);

// Pieces of a scan; one is taken, that is deleted, newest windows first. Inside SPI.
bool has_piece(int64_t scan);
std::string take_piece(int64_t scan);

// Deletes all pieces of scans that no pending range waits for.
void delete_stray_pieces();

}  // namespace tick::pg
