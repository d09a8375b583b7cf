// Log lines on stderr; see log.hpp.
#include "log.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <mutex>
#include <string>

#include "number.hpp"

namespace tick::ingest::log {

namespace {

std::mutex guard;
std::string shown;

void put(const std::string& text) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t n = ::write(STDERR_FILENO, rest.data(), rest.size());
    if (n <= 0) return;
    rest.remove_prefix(static_cast<std::size_t>(n));
  }
}

void line(std::string_view level, std::string_view text) {
  const auto now = std::chrono::floor<std::chrono::microseconds>(std::chrono::system_clock::now());
  std::string out = format_time(now);
  out.resize(out.size() - 4);
  out += "Z ";
  out += level;
  for (const char c : text)
    if (c != '\n')
      out += c;
    else
      out += "\n    ";
  while (out.ends_with(' ') || out.ends_with('\n')) out.pop_back();
  out += '\n';
  const std::lock_guard hold(guard);
  if (!shown.empty()) out = "\r\x1b[K" + out + shown;
  put(out);
}

}  // namespace

void info(std::string_view text) {
  line("info  ", text);
}

void warn(std::string_view text) {
  line("warn  ", text);
}

void error(std::string_view text) {
  line("error ", text);
}

std::string_view plain(std::string_view what) {
  return what.substr(0, what.find(" [system:"));
}

bool on_terminal() {
  static const bool terminal = isatty(STDERR_FILENO) == 1;
  return terminal;
}

void progress(std::string_view text) {
  if (!on_terminal()) return;
  const std::lock_guard hold(guard);
  if (text.empty() && shown.empty()) return;
  winsize size{};
  const bool sized = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
  shown = text.substr(0, sized ? size.ws_col - 1u : 79u);  // a wrapped line could not be cleared again
  put("\r\x1b[K" + shown);
}

}  // namespace tick::ingest::log
