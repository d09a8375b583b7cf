// The one exception of the core: a code and a message.
// The code says which SQLSTATE class the adapter reports; the message is ready to be a PostgreSQL primary
// message (lower case, no period). The core throws it for broken promises and corrupt bytes only.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace tick {

struct Error : std::exception {
  enum class Code { invalid_argument, data_corrupted, numeric_out_of_range, internal };

  Error(Code error_code, std::string text) : code(error_code), message(std::move(text)) {}
  const char* what() const noexcept override { return message.c_str(); }

  Code code;
  std::string message;
};

}  // namespace tick
