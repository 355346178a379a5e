#include "progress.hpp"
#include "terminal.hpp"
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/observe/text_table.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <string_view>

#include <unistd.h>

namespace fsdpinit::tool {

namespace {

constexpr double seconds_between_lines = 1.0;
constexpr double seconds_between_bars = 0.1;
constexpr const char* erase_bar = "\r\x1b[K";

bool stderr_is_terminal() {
  const char* const kind = std::getenv("TERM");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return ::isatty(STDERR_FILENO) != 0 && kind != nullptr && std::string_view(kind) != "dumb";
}

}  // namespace

progress_display::progress_display(std::string_view label, bool enabled)
    : label_(label),
      enabled_(enabled),
      is_terminal_(stderr_is_terminal()),
      began_(monotonic_seconds()),
      next_(began_ + (is_terminal_ ? seconds_between_bars : seconds_between_lines)) {}

progress_display::~progress_display() {
  if (shown_ && is_terminal_) {
    std::fputs(erase_bar, stderr);
  }
}

void progress_display::show(std::uint64_t done, std::uint64_t total) {
  const std::lock_guard lock(mutex_);
  show_locked(done, total);
}

void progress_display::add(std::uint64_t bytes, std::uint64_t total) {
  const std::lock_guard lock(mutex_);
  done_ += bytes;
  show_locked(done_, total);
}

void progress_display::show_wait(std::size_t rank, const char* phase, const char* what, double seconds,
                                 double deadline_seconds) noexcept {
  const std::lock_guard lock(mutex_);
  // One call, so that lines of ranks do not mix; and no format of fmt's, which may allocate.
  std::fprintf(stderr, "%s%s: rank %zu has waited %.0f s for %s in phase \"%s\", and gives up after %g s\n",
               is_terminal_ ? erase_bar : "", label_.c_str(), rank, seconds, what, phase, deadline_seconds);
}

void progress_display::show_locked(std::uint64_t done, std::uint64_t total) {
  const double now = monotonic_seconds();
  if (!enabled_ || now < next_) {
    return;
  }
  next_ = now + (is_terminal_ ? seconds_between_bars : seconds_between_lines);
  shown_ = true;
  const double part = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
  const auto speed = static_cast<std::uint64_t>(static_cast<double>(done) / std::max(now - began_, 1e-9));
  const auto line =
      fmt::format("{:3.0f} %  {} of {}, {}/s", 100 * part, bytes_text(done), bytes_text(total), bytes_text(speed));
  if (is_terminal_) {
    // The bar gives way to the text; the last column stays free, behind which some terminals break the line.
    const std::size_t columns = terminal_columns(STDERR_FILENO);
    const std::size_t taken = label_.size() + line.size() + 5;
    const std::size_t width = columns > taken ? std::min<std::size_t>(columns - taken, 30) : 0;
    const auto full = static_cast<std::size_t>(part * static_cast<double>(width));
    const std::string bar = width == 0 ? "" : fmt::format("[{:#<{}}{:-<{}}] ", "", full, "", width - full);
    const std::string all = fmt::format("{} {}{}", label_, bar, line);
    std::fputs(fmt::format("\r{}\x1b[K", all.substr(0, columns - 1)).c_str(), stderr);
  } else {
    std::fputs(fmt::format("{}: {}\n", label_, line).c_str(), stderr);  // a closed stderr is no reason to fail
  }
}

}  // namespace fsdpinit::tool
