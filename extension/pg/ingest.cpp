// The fast door: tick.ingest puts the columns of a batch into a table, without a tuple's detour through text
// or COPY's messages and without firing triggers: those of ours it stands in for. Whatever else a table may
// ask of an INSERT is honoured (rights, defaults, NOT NULL, CHECK, partitions, indexes) or refused with
// feature_not_supported, and nothing is written, so that the caller can fall back to COPY, which does the
// same.
#include <algorithm>

#include "../core/batch.hpp"

#include "guard.hpp"
#include "insert.hpp"

extern "C" {
PG_FUNCTION_INFO_V1(tick_ingest);
PGDLLEXPORT Datum tick_ingest(PG_FUNCTION_ARGS);
}

namespace tick::pg {
namespace {

using Kind = BatchColumn::Kind;

constexpr int chunk_rows = Insertion::chunk_rows;

// One column of the batch, or a default.
struct Filler {
  const BatchColumn* column;  // nullptr: a default
  AttrNumber attribute;
  Oid type;
  ExprState* expression;  // of a default
  Datum* texts;           // of the dictionary, made once
  Datum values[chunk_rows];
  bool nulls[chunk_rows];
};

// All in one transaction of the caller, and as the caller.
class Ingest {
 public:
  Ingest(const Batch& batch, Oid target) : batch_(batch), target_(target) {}

  // May ereport.
  void open() {
    table_ = table_open(target_, RowExclusiveLock);
    const Fitness fitness = examine(table_);
    if (fitness.obstacle != nullptr) refuse_insertion(table_, fitness.obstacle);
    if (XactReadOnly && !table_->rd_islocaltemp) PreventCommandIfReadOnly("tick.ingest");
    if (GetDatabaseEncoding() != PG_UTF8) refuse_insertion(table_, "the database's encoding is not UTF8");
    insertion_.open(table_, fitness, find_fillers(), Insertion::Odd::refused);
    // Equal words are one Datum: a key of them need not be looked at twice.
    const bool lasting = std::all_of(fillers_, fillers_ + filler_count_, [](const Filler* filler) {
      return filler->column != nullptr && filler->column->kind != Kind::text;
    });
    if (lasting) insertion_.know_keys();
  }

  // Throws.
  void run() {
    for (uint32_t from = 0; from < batch_.rows; from += chunk_rows)
      call([&] {
        insertion_.enter();
        CHECK_FOR_INTERRUPTS();
        const int count = static_cast<int>(Min(batch_.rows - from, static_cast<uint32_t>(chunk_rows)));
        bool complete = filler_count_ == RelationGetDescr(table_)->natts;
        for (int i = 0; i < filler_count_; ++i) {
          if (fillers_[i]->column != nullptr) fill(*fillers_[i], from, count);
          complete = complete && fillers_[i]->column != nullptr && fillers_[i]->column->nulls == nullptr;
        }
        for (int row = 0; row < count; ++row) {
          set_values(row);
          insertion_.route(row, complete);
        }
        insertion_.leave();
      });
    insertion_.finish();
  }

  // May ereport.
  void close() {
    insertion_.close();
    table_close(table_, NoLock);
  }

  int64 inserted() const { return insertion_.inserted(); }
  int64 duplicates() const { return insertion_.duplicates(); }

 private:
  // The columns that the batch has.
  const Bitmapset* find_fillers() {
    TupleDesc columns = RelationGetDescr(table_);
    fillers_ = static_cast<Filler**>(palloc(sizeof(Filler*) * static_cast<size_t>(columns->natts)));
    Bitmapset* named = nullptr;
    for (const BatchColumn& column : batch_.columns) {
      pg_verifymbstr(column.name.data(), static_cast<int>(column.name.size()), false);
      const char* name = pnstrdup(column.name.data(), column.name.size());
      const AttrNumber attribute = get_attnum(target_, name);
      if (attribute <= 0)
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_COLUMN), errmsg("column \"%s\" of relation \"%s\" does not exist",
                                                           name, RelationGetRelationName(table_))));
      if (bms_is_member(attribute, named))
        ereport(ERROR,
                (errcode(ERRCODE_DUPLICATE_COLUMN), errmsg("column \"%s\" specified more than once", name)));
      named = bms_add_member(named, attribute);
      add_filler(&column, attribute);
    }
    check_rights(named);
    for (AttrNumber attribute = 1; attribute <= columns->natts; ++attribute) {
      if (TupleDescAttr(columns, attribute - 1)->attisdropped || bms_is_member(attribute, named)) continue;
      Node* expression = build_column_default(table_, attribute);
      if (expression == nullptr) continue;
      // One may look at the rows before its own.
      if (contain_volatile_functions_not_nextval(expression))
        refuse_insertion(table_, psprintf("the default of column \"%s\" is volatile",
                                          NameStr(TupleDescAttr(columns, attribute - 1)->attname)));
      Filler* filler = add_filler(nullptr, attribute);
      filler->expression = ExecInitExpr(expression_planner(reinterpret_cast<Expr*>(expression)), nullptr);
    }
    return named;
  }

  Filler* add_filler(const BatchColumn* column, AttrNumber attribute) {
    const FormData_pg_attribute* to = TupleDescAttr(RelationGetDescr(table_), attribute - 1);
    auto* filler = static_cast<Filler*>(palloc0(sizeof(Filler)));
    filler->column = column;
    filler->attribute = attribute;
    filler->type = to->atttypid;
    fillers_[filler_count_++] = filler;
    if (column == nullptr) return filler;
    const Kind kind = column->kind;
    bool fits = false;
    switch (to->atttypid) {
      case BOOLOID:
        fits = kind == Kind::boolean;
        break;
      case INT2OID:
      case INT4OID:
      case INT8OID:
        fits = kind == Kind::whole;
        break;
      case FLOAT8OID:
        fits = kind == Kind::number;
        break;
      case TIMESTAMPOID:
      case TIMESTAMPTZOID:
        fits = kind == Kind::time;
        break;
      case TEXTOID:
      case VARCHAROID:
        fits = kind == Kind::text || kind == Kind::words;
        break;
      default:
        break;
    }
    if (!fits || to->atttypmod >= 0)
      refuse_insertion(table_, psprintf("column \"%s\" has type %s", NameStr(to->attname),
                                        format_type_with_typemod(to->atttypid, to->atttypmod)));
    if (kind == Kind::words) {
      filler->texts = static_cast<Datum*>(palloc(sizeof(Datum) * (column->texts.size() + 1)));
      for (size_t i = 0; i < column->texts.size(); ++i) filler->texts[i] = text_of(column->texts[i]);
    }
    return filler;
  }

  void check_rights(const Bitmapset* named) {
    const Oid role = GetUserId();
    if (pg_class_aclcheck(target_, role, ACL_INSERT) == ACLCHECK_OK) return;
    int attribute = -1;
    bool all = !bms_is_empty(const_cast<Bitmapset*>(named));
    while (all && (attribute = bms_next_member(const_cast<Bitmapset*>(named), attribute)) >= 0)
      all =
          pg_attribute_aclcheck(target_, static_cast<AttrNumber>(attribute), role, ACL_INSERT) == ACLCHECK_OK;
    if (!all) aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, RelationGetRelationName(table_));
  }

  static Datum text_of(std::string_view text) {
    pg_verifymbstr(text.data(), static_cast<int>(text.size()), false);
    return PointerGetDatum(cstring_to_text_with_len(text.data(), static_cast<int>(text.size())));
  }

  // Makes the values of a chunk.
  static void fill(Filler& filler, uint32_t from, int count) {
    const BatchColumn& column = *filler.column;
    if (column.nulls == nullptr)
      memset(filler.nulls, 0, static_cast<size_t>(count));
    else
      for (int i = 0; i < count; ++i) filler.nulls[i] = column.is_null(from + static_cast<uint32_t>(i));
    Datum* values = filler.values;
    if (column.kind == Kind::text) {
      for (int i = 0; i < count; ++i)
        if (!filler.nulls[i]) values[i] = text_of(column.texts[from + static_cast<uint32_t>(i)]);
      return;
    }
    static_assert(sizeof(Datum) == sizeof(int64_t));
    auto* words = reinterpret_cast<int64_t*>(values);
    column.read(from, static_cast<size_t>(count), words);
    const auto each = [&](auto&& make) {
      for (int i = 0; i < count; ++i)
        if (!filler.nulls[i]) values[i] = make(words[i]);
    };
    switch (filler.type) {
      case BOOLOID:
        each([](int64 word) { return BoolGetDatum(word != 0); });
        break;
      case INT2OID:
        each([](int64 word) {
          if (word < PG_INT16_MIN || word > PG_INT16_MAX) out_of_range("smallint");
          return Int16GetDatum(static_cast<int16>(word));
        });
        break;
      case INT4OID:
        each([](int64 word) {
          if (word < PG_INT32_MIN || word > PG_INT32_MAX) out_of_range("integer");
          return Int32GetDatum(static_cast<int32>(word));
        });
        break;
      case TEXTOID:
      case VARCHAROID:
        each([&](int64 word) { return filler.texts[word]; });
        break;
      case TIMESTAMPOID:
      case TIMESTAMPTZOID:
        each([](int64 word) {
          if (!IS_VALID_TIMESTAMP(word) && !TIMESTAMP_NOT_FINITE(word)) out_of_range("timestamp");
          return TimestampTzGetDatum(word);
        });
        break;
      default:  // the bits of an int8 or float8 are its Datum
        break;
    }
  }

  [[noreturn]] static void out_of_range(const char* type) {
    const bool number = strcmp(type, "timestamp") != 0;
    ereport(ERROR,
            (errcode(number ? ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE : ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
             errmsg("%s out of range", type)));
  }

  void set_values(int row) {
    TupleTableSlot* slot = insertion_.row(row);
    for (int i = 0; i < filler_count_; ++i) {
      Filler& filler = *fillers_[i];
      const int at = filler.attribute - 1;
      if (filler.column != nullptr) {
        slot->tts_values[at] = filler.values[row];
        slot->tts_isnull[at] = filler.nulls[row];
      } else {
        slot->tts_values[at] = ExecEvalExpr(filler.expression, insertion_.context(), &slot->tts_isnull[at]);
      }
    }
  }

  const Batch& batch_;
  Oid target_;
  Relation table_ = nullptr;
  Filler** fillers_ = nullptr;
  int filler_count_ = 0;
  Insertion insertion_;
};

Datum ingest(FunctionCallInfo fcinfo) {
  bytea* bytes = call([&] { return PG_GETARG_BYTEA_PP(1); });
  const Batch batch = read_batch({reinterpret_cast<const unsigned char*>(VARDATA_ANY(bytes)),
                                  static_cast<size_t>(VARSIZE_ANY_EXHDR(bytes))});
  Ingest ingest(batch, PG_GETARG_OID(0));
  call([&] { ingest.open(); });
  ingest.run();
  return call([&] {
    ingest.close();
    TupleDesc result;
    if (get_call_result_type(fcinfo, nullptr, &result) != TYPEFUNC_COMPOSITE)
      elog(ERROR, "tick.ingest must return a row");
    Datum values[2] = {Int64GetDatum(ingest.inserted()), Int64GetDatum(ingest.duplicates())};
    bool nulls[2] = {false, false};
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(result), values, nulls));
  });
}

}  // namespace
}  // namespace tick::pg

Datum tick_ingest(PG_FUNCTION_ARGS) {
  return tick::pg::entry([&] { return tick::pg::ingest(fcinfo); });
}
