#pragma once

#include <cstddef>
#include <string>

#include <sys/ioctl.h>

namespace fsdpinit::tool {

/// The columns of the terminal that a stream leads to; unlimited where it leads to none.
[[nodiscard]] inline std::size_t terminal_columns(int stream) {
  ::winsize size{};
  return ::ioctl(stream, TIOCGWINSZ, &size) == 0 && size.ws_col != 0 ? size.ws_col : std::string::npos;
}

}  // namespace fsdpinit::tool
