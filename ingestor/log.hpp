// Log lines on stderr: `<UTC time> <level> <text>`, one write per line, from any thread.
// On a terminal one progress line stays below the log; every log line first clears it.
#pragma once

#include <string_view>

namespace tick::ingest::log {

void info(std::string_view text);
void warn(std::string_view text);
void error(std::string_view text);

// What an error says, without the place in Boost that it adds in brackets.
std::string_view plain(std::string_view what);

bool on_terminal();
// Replaces the progress line (terminal only); an empty text removes it.
void progress(std::string_view text);

}  // namespace tick::ingest::log
