// Loads the library: settings, shared memory, the launcher, and the transaction callbacks of the capture.
#include "capture.hpp"
#include "changes.hpp"
#include "copy.hpp"
#include "define.hpp"
#include "guard.hpp"
#include "notify.hpp"
#include "shared.hpp"
#include "worker.hpp"

extern "C" {
PG_MODULE_MAGIC;
PGDLLEXPORT void _PG_init(void);
}

namespace tick::pg {

int tick_lock_timeout = 10000;
int tick_turn_interval = 1;
int tick_queue_size = 8192;
int tick_turn_memory = 65536;
int tick_scan_size = 4096;
bool tick_corrections = true;
bool tick_fast_copy = true;
int tick_truncate = truncate_refuse;
#ifdef TICK_FAULTS
char* tick_debug_bug = nullptr;
#endif

namespace {

shmem_request_hook_type previous_request = nullptr;
shmem_startup_hook_type previous_startup = nullptr;

void on_request() {
  if (previous_request != nullptr) previous_request();
  shared_request();
}

void on_startup() {
  if (previous_startup != nullptr) previous_startup();
  shared_startup();
}

const config_enum_entry truncate_options[] = {
    {"refuse", truncate_refuse, false}, {"retention", truncate_retention, false}, {nullptr, 0, false}};

void define_settings() {
#ifdef TICK_FAULTS
  DefineCustomStringVariable("tick.debug_bug", "Plants a bug that the tests must notice.", nullptr,
                             &tick_debug_bug, "", PGC_SUSET, 0, nullptr, nullptr, nullptr);
#endif
  DefineCustomIntVariable("tick.change_log_size", "How much of the log behind tick.changes is kept.",
                          "Half of it at least.", &tick_change_log_size, 65536, 32, INT_MAX, PGC_SIGHUP,
                          GUC_UNIT_KB, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("tick.lock_timeout", "How long a definition tries to lock its source.", nullptr,
                          &tick_lock_timeout, 10000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS, nullptr, nullptr,
                          nullptr);
  DefineCustomIntVariable("tick.queue_size", "Size at which a table of the delta queue is retired.", nullptr,
                          &tick_queue_size, 8192, 8, INT_MAX, PGC_SIGHUP, GUC_UNIT_KB, nullptr, nullptr,
                          nullptr);
  DefineCustomIntVariable("tick.turn_interval", "Shortest time between two turns of the worker.", nullptr,
                          &tick_turn_interval, 1, 0, 60000, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr,
                          nullptr);
  DefineCustomIntVariable("tick.turn_memory", "Deltas that one turn of the worker reads.", nullptr,
                          &tick_turn_memory, 65536, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_KB, nullptr, nullptr,
                          nullptr);
  DefineCustomIntVariable("tick.scan_size", "Size of history above which a helper process scans it.",
                          "Smaller tables are read by the worker itself, within a turn.", &tick_scan_size,
                          4096, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_KB, nullptr, nullptr, nullptr);
  DefineCustomBoolVariable("tick.corrections", "Whether a DELETE takes its rows out of rollups.",
                           "Off, for the owner of a source: rows go, their candles stay.", &tick_corrections,
                           true, PGC_USERSET, 0, nullptr, nullptr, nullptr);
  DefineCustomBoolVariable("tick.fast_copy",
                           "Whether COPY into a source does without a trigger for each row.", nullptr,
                           &tick_fast_copy, true, PGC_USERSET, 0, nullptr, nullptr, nullptr);
  DefineCustomEnumVariable("tick.truncate", "What a TRUNCATE of a source does.",
                           "retention, for its owner: rows go, their candles stay.", &tick_truncate,
                           truncate_refuse, truncate_options, PGC_USERSET, 0, nullptr, nullptr, nullptr);
  MarkGUCPrefixReserved("tick");
}

}  // namespace
}  // namespace tick::pg

void _PG_init(void) {
  using namespace tick::pg;
  if (IsBinaryUpgrade) return;
  static bool initialised = false;
  if (initialised) return;
  initialised = true;
  define_settings();
  register_capture_callbacks();
  if (!process_shared_preload_libraries_in_progress) return;
  previous_request = shmem_request_hook;
  shmem_request_hook = on_request;
  previous_startup = shmem_startup_hook;
  shmem_startup_hook = on_startup;
  register_launcher();
  watch_copies();
  watch_owners();
  watch_listeners();
}
