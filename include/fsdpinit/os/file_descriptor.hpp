#pragma once

#include <fsdpinit/core/error.hpp>

#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <unistd.h>

namespace fsdpinit::detail {

/// A POSIX file descriptor and nothing else: moved, never copied, closed at the end. -1 is none.
class file_descriptor {
 public:
  file_descriptor() = default;
  explicit file_descriptor(int number) noexcept : number_(number) {}
  file_descriptor(file_descriptor&& other) noexcept : number_(other.release()) {}
  file_descriptor& operator=(file_descriptor&& other) noexcept {
    if (this != &other) {
      close();
      number_ = other.release();
    }
    return *this;
  }
  file_descriptor(const file_descriptor&) = delete;
  file_descriptor& operator=(const file_descriptor&) = delete;
  ~file_descriptor() { close(); }

  [[nodiscard]] int number() const noexcept { return number_; }
  [[nodiscard]] explicit operator bool() const noexcept { return number_ >= 0; }
  [[nodiscard]] int release() noexcept { return std::exchange(number_, -1); }

  /// 0, or the errno that close(2) reported. Not retried on EINTR: Linux has closed the descriptor by then.
  int close() noexcept {
    const int number = release();
    return number >= 0 && ::close(number) != 0 && errno != EINTR ? errno : 0;
  }

 private:
  int number_ = -1;
};

/// What the operating system says about an errno: `No space left on device`.
[[nodiscard]] inline std::string system_text(int code) { return std::generic_category().message(code); }

/// `<path>: <what>: <system's text>`, code `errc::io`, with the errno as native code.
[[nodiscard]] inline error io_error(std::string_view path, std::string_view what, int code) {
  return {errc::io, path, concat(what, ": ", system_text(code)), {.native_code = code}};
}

}  // namespace fsdpinit::detail
