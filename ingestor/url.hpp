// The address of a WebSocket or of a REST interface, taken apart, and what refuses it. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tick::ingest {

struct Url {
  bool tls = false;
  std::string host;
  std::string port;
  std::string target;  // path and query; "/" when the text had none
};

// Splits ws:// and wss:// addresses (or http:// and https:// ones); nothing when the text is not one.
std::optional<Url> parse_url(std::string_view text, std::string_view scheme = "ws");

// Exchanges answer some places with an HTTP status instead of a WebSocket: says what it means.
std::string explain_status(unsigned status);

}  // namespace tick::ingest
