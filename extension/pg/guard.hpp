// The two doors between PostgreSQL's errors and C++'s.
//   pg::entry  around every extern "C" body: a C++ exception leaves as an ereport, the C++ stack already
//   unwound. pg::call   around PostgreSQL code while C++ objects are alive above it: an ereport comes out as
//   PgError.
// Neither is for a single row: guard a batch. FATAL unwinds nothing, so nothing shared may be released by
// either.
#pragma once

#include <exception>
#include <new>
#include <string>
#include <type_traits>
#include <utility>

#include "../core/error.hpp"
#include "pg.hpp"

namespace tick::pg {

// A PostgreSQL error on its way through C++ frames; the ErrorData lives in a PostgreSQL memory context.
struct PgError {
  ErrorData* data;

  // A copy: the end of the transaction frees what `data` points to.
  std::string message() const { return data->message == nullptr ? "unknown error" : data->message; }
};

// Runs f (captures by reference only, no non-trivial locals) and turns an ereport inside it into PgError.
template <typename F>
auto call(F&& f) {
  using R = std::invoke_result_t<F&>;
  static_assert(std::is_void_v<R> || std::is_trivially_destructible_v<R>);
  static_assert(std::is_trivially_destructible_v<std::remove_reference_t<F>>,
                "a lambda given to pg::call must capture by reference: longjmp skips destructors");
  struct Saved {
    sigjmp_buf* stack = PG_exception_stack;
    ErrorContextCallback* context = error_context_stack;
    MemoryContext memory = CurrentMemoryContext;
    void restore() const {
      PG_exception_stack = stack;
      error_context_stack = context;
    }
  } const saved;
  sigjmp_buf buffer;
  if (sigsetjmp(buffer, 0) == 0) {
    PG_exception_stack = &buffer;
    try {
      if constexpr (std::is_void_v<R>) {
        f();
        saved.restore();
        return;
      } else {
        R result = f();
        saved.restore();
        return result;
      }
    } catch (...) {
      saved.restore();
      throw;
    }
  }
  saved.restore();
  MemoryContextSwitchTo(saved.memory);
  ErrorData* data = CopyErrorData();
  FlushErrorState();
  throw PgError{data};
}

// Runs f in a subtransaction of its own, which is rolled back if f ereports: the error is the result, nullptr
// if all went well.
template <typename F>
ErrorData* in_subtransaction(F&& f) {
  MemoryContext memory = CurrentMemoryContext;
  ResourceOwner owner = CurrentResourceOwner;
  ErrorData* error = nullptr;
  BeginInternalSubTransaction(nullptr);
  MemoryContextSwitchTo(memory);
  try {
    call(f);
  } catch (const PgError& raised) {
    error = raised.data;
  }
  if (error == nullptr)
    ReleaseCurrentSubTransaction();
  else
    RollbackAndReleaseCurrentSubTransaction();
  MemoryContextSwitchTo(memory);
  CurrentResourceOwner = owner;
  return error;
}

inline int sqlstate(Error::Code code) {
  switch (code) {
    case Error::Code::invalid_argument:
      return ERRCODE_INVALID_PARAMETER_VALUE;
    case Error::Code::data_corrupted:
      return ERRCODE_DATA_CORRUPTED;
    case Error::Code::numeric_out_of_range:
      return ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
    case Error::Code::internal:
      break;
  }
  return ERRCODE_INTERNAL_ERROR;
}

// Runs f; every exception is caught, and reported to PostgreSQL only after its handler has been left.
template <typename F>
auto entry(F&& f) -> std::invoke_result_t<F&> {
  char message[512];
  int code = ERRCODE_INTERNAL_ERROR;
  ErrorData* data = nullptr;
  try {
    return f();
  } catch (const PgError& error) {
    data = error.data;
  } catch (const Error& error) {
    code = sqlstate(error.code);
    strlcpy(message, error.what(), sizeof message);
  } catch (const std::bad_alloc&) {
    code = ERRCODE_OUT_OF_MEMORY;
    strlcpy(message, "out of memory", sizeof message);
  } catch (const std::exception& error) {
    strlcpy(message, error.what(), sizeof message);
  } catch (...) {
    strlcpy(message, "unknown C++ exception", sizeof message);
  }
  if (data != nullptr) ReThrowError(data);
  ereport(ERROR, (errcode(code), errmsg_internal("%s", message)));
}

}  // namespace tick::pg
