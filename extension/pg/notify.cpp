#include "notify.hpp"

#include <algorithm>

#include "guard.hpp"
#include "session.hpp"
#include "shared.hpp"

namespace tick::pg {
namespace {

constexpr size_t keys_room = 6000;  // of a payload of at most 7 kB
constexpr const char* channel_prefix = "tick_";

ProcessUtility_hook_type previous_utility = nullptr;
DatabaseSlot* counted_in = nullptr;  // this session is counted there

void stop_counting(int, Datum) {
  if (counted_in != nullptr && counted_in->database == MyDatabaseId)
    pg_atomic_fetch_sub_u32(&counted_in->listeners, 1);
  counted_in = nullptr;
}

void count_session() {
  DatabaseSlot* slot = my_slot();
  if (counted_in != nullptr || slot == nullptr) return;
  before_shmem_exit(stop_counting, 0);
  counted_in = slot;
  pg_atomic_fetch_add_u32(&slot->listeners, 1);
}

void on_utility(PlannedStmt* statement, const char* text, bool read_only, ProcessUtilityContext context,
                ParamListInfo parameters, QueryEnvironment* environment, DestReceiver* receiver,
                QueryCompletion* completion) {
  // Before: whatever is sent from its commit on must reach it.
  if (IsA(statement->utilityStmt, ListenStmt) &&
      strncmp(reinterpret_cast<ListenStmt*>(statement->utilityStmt)->conditionname, channel_prefix,
              strlen(channel_prefix)) == 0)
    count_session();
  (previous_utility != nullptr ? previous_utility : standard_ProcessUtility)(
      statement, text, read_only, context, parameters, environment, receiver, completion);
}

// One value as JSON. The output function may be a user's.
void append_value(StringInfo json, const Cell& cell, const ValueType& type, Oid output) {
  if (cell.null) {
    appendStringInfoString(json, "null");
    return;
  }
  if (type.type == Type::boolean) {
    appendStringInfoString(json, cell.word != 0 ? "true" : "false");
    return;
  }
  const char* text = OidOutputFunctionCall(output, to_datum(cell, type));
  const bool number = is_integer(type.type) || is_float(type.type) || type.type == Type::numeric;
  if (number && strspn(text, "0123456789+-.e") == strlen(text))
    appendStringInfoString(json, text);
  else
    escape_json(json, text);
}

void append_time(StringInfo json, const Rollup& rollup, Micros time) {
  if (!rollup.windowed || TIMESTAMP_NOT_FINITE(time)) {
    appendStringInfoString(json, "null");
    return;
  }
  char text[256];  // more than MAXDATELEN
  const Oid type = rollup.column_types[rollup.program.keys.size()];
  appendStringInfo(json, "\"%s\"",
                   JsonEncodeDateTime(text, TimestampTzGetDatum(time), getBaseType(type), nullptr));
}

void send(const Rollup& rollup, Micros from, Micros to, const char* keys, const char* token, bool closed) {
  StringInfoData json;
  initStringInfo(&json);
  appendStringInfoString(&json, "{\"rollup\": ");
  escape_json(&json, rollup.name.c_str());
  appendStringInfoString(&json, ", \"from\": ");
  append_time(&json, rollup, from);
  appendStringInfoString(&json, ", \"to\": ");
  append_time(&json, rollup, to);
  appendStringInfo(&json, ", \"token\": \"%s\", \"keys\": %s, \"closed\": %s}", token, keys,
                   closed ? "true" : "false");
  Async_Notify(rollup.channel.c_str(), json.data);
}

Datum channel(Oid view) {
  char* result = nullptr;
  MemoryContext memory = CurrentMemoryContext;
  if (get_rel_name(view) != nullptr && pg_class_aclcheck(view, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
    aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, get_rel_name(view));
  const Actor caller = act_as_extension();
  open_catalogs();
  Oid type = OIDOID;
  Datum value = ObjectIdGetDatum(view);
  SPI_execute_with_args("SELECT channel FROM tick_catalog.rollup WHERE view = $1", 1, &type, &value, nullptr,
                        true, 1);
  if (SPI_processed == 1)
    result = MemoryContextStrdup(memory, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
  close_catalogs();
  act_again(caller);
  if (result == nullptr) refuse_no_rollup(view);
  return CStringGetTextDatum(result);
}

}  // namespace

const char* key_json(const Rollup& rollup, const Cell* cells) {
  StringInfoData json;
  initStringInfo(&json);
  const size_t keys = rollup.program.keys.size();
  for (size_t k = 0; k < keys; ++k) {
    appendStringInfoString(&json, k == 0 ? "{" : ", ");
    escape_json(&json, get_attname(rollup.state, rollup.attributes[k], false));
    appendStringInfoString(&json, ": ");
    Oid output;
    bool is_varlena;
    getTypeOutputInfo(rollup.columns[k].oid, &output, &is_varlena);
    append_value(&json, cells[k], rollup.columns[k], output);
  }
  appendStringInfoString(&json, keys == 0 ? "{}" : "}");
  return json.data;
}

void watch_listeners() {
  previous_utility = ProcessUtility_hook;
  ProcessUtility_hook = on_utility;
}

bool has_listeners() {
  DatabaseSlot* slot = my_slot();
  return slot != nullptr && pg_atomic_read_u32(&slot->listeners) > 0;
}

void add_change(Change& change, const Rollup& rollup, const Fold& fold) {
  size_t room = 0;
  for (const std::string& key : change.keys) room += key.size() + 2;
  const Actor before = call([&] { return act_as_owner(rollup.owner); });
  for (size_t slot = 0; slot < fold.slots(); ++slot) {
    change.from = std::min(change.from, fold.pane(slot));
    if (rollup.windowed) change.to = std::max(change.to, window_end(fold.pane(slot), rollup.size));
    if (change.many) continue;
    const char* json = call([&] {
      auto* cells = static_cast<Cell*>(palloc(sizeof(Cell) * (rollup.program.keys.size() + 1)));
      for (size_t k = 0; k < rollup.program.keys.size(); ++k) cells[k] = fold.key(slot, k);
      return key_json(rollup, cells);
    });
    std::string key = json;
    call([&] { pfree(const_cast<char*>(json)); });
    if (std::find(change.keys.begin(), change.keys.end(), key) != change.keys.end()) continue;
    room += key.size() + 2;
    change.many = room > keys_room;
    change.keys.push_back(std::move(key));
  }
  call([&] { act_again(before); });
}

void notify_change(const Rollup& rollup, const Change& change, const std::string& token) {
  std::string keys = "[";
  for (const std::string& key : change.keys) keys += (keys.size() == 1 ? "" : ", ") + key;
  keys = change.many ? "null" : keys + "]";
  call([&] { send(rollup, change.from, change.to, keys.c_str(), token.c_str(), false); });
}

void notify_closed(const Rollup& rollup, Micros window, const std::string& token) {
  const Micros end = window_end(window, rollup.size);
  call([&] { send(rollup, window, end, "null", token.c_str(), true); });
}

}  // namespace tick::pg

extern "C" {
PG_FUNCTION_INFO_V1(tick_channel);

PGDLLEXPORT Datum tick_channel(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::channel(PG_GETARG_OID(0)); });
}
}
