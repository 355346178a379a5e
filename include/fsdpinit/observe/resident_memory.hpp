#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

/// \file
/// What the operating system says the process holds. It stands beside the accounted bytes and is never equated with
/// them: it counts every thread's memory, the allocator's rounding and the program itself.

namespace fsdpinit {

namespace detail {

/// A small file of /proc, opened once and read as often as wanted; empty text where there is no such file.
class proc_file {
 public:
  explicit proc_file(const char* path) noexcept : descriptor_(::open(path, O_RDONLY | O_CLOEXEC)) {}
  proc_file(const proc_file&) = delete;
  proc_file& operator=(const proc_file&) = delete;
  ~proc_file() {
    if (descriptor_ >= 0) {
      ::close(descriptor_);
    }
  }

  /// The file's text as of now, at most `N` bytes of it. One system call, no allocation.
  template <std::size_t N>
  [[nodiscard]] std::string_view read(std::array<char, N>& buffer) const noexcept {
    const auto count = descriptor_ < 0 ? -1 : ::pread(descriptor_, buffer.data(), buffer.size(), 0);
    return {buffer.data(), count > 0 ? static_cast<std::size_t>(count) : 0U};
  }

 private:
  int descriptor_;
};

/// The first number at or after `from`; 0 where there is none.
[[nodiscard]] inline std::uint64_t number_in(std::string_view text, std::size_t from) noexcept {
  from = text.find_first_of("0123456789", from);
  std::uint64_t value = 0;
  if (from != std::string_view::npos) {
    std::from_chars(text.data() + from, text.data() + text.size(), value);
  }
  return value;
}

}  // namespace detail

/// Resident bytes of this process, read as often as wanted: the file behind it stays open. 0 where /proc is missing.
class resident_memory {
 public:
  /// Now; one system call, about a microsecond.
  [[nodiscard]] std::uint64_t current() const noexcept {
    std::array<char, 128> buffer{};
    const std::string_view text = statm_.read(buffer);  // pages: total, resident, shared, ...
    const std::size_t second = text.find(' ');
    return second == std::string_view::npos ? 0 : detail::number_in(text, second) * page_bytes_;
  }

 private:
  detail::proc_file statm_{"/proc/self/statm"};
  std::uint64_t page_bytes_ = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
};

/// The most bytes this process has had resident since it was started.
///
/// The kernel's VmHWM; where /proc is missing getrusage, which also counts what the process was before exec().
[[nodiscard]] inline std::uint64_t peak_resident_bytes() noexcept {
  std::array<char, 4096> buffer{};
  const std::string_view status = detail::proc_file("/proc/self/status").read(buffer);
  if (const std::size_t line = status.find("VmHWM:"); line != std::string_view::npos) {
    return detail::number_in(status, line) * 1024;
  }
  struct ::rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace fsdpinit
