/* A row trigger that does nothing: what calling any C trigger costs. */
#include "postgres.h"
#include "fmgr.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(nothing);
PGDLLEXPORT Datum nothing(PG_FUNCTION_ARGS);

Datum nothing(PG_FUNCTION_ARGS) {
  (void)fcinfo;
  return PointerGetDatum(NULL);
}
