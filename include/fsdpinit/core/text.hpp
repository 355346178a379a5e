#pragma once

#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>

/// \file
/// The text of errors. Kept to <string> alone so that `core.hpp` stays cheap to include; tables and reports use fmt.

namespace fsdpinit {

namespace detail {

inline void append(std::string& out, std::string_view part) { out += part; }

template <std::integral Integer>
void append(std::string& out, Integer number) {
  out += std::to_string(number);
}

}  // namespace detail

/// The parts one after the other; integers in decimal.
template <class... Parts>
[[nodiscard]] std::string concat(const Parts&... parts) {
  std::string out;
  (detail::append(out, parts), ...);
  return out;
}

/// A name from a checkpoint or a path, made safe for one line of a log: control characters and backslashes are escaped
/// (`\n`, `\x00`), and a name longer than `limit` bytes loses its middle, so that both ends stay visible.
[[nodiscard]] inline std::string printable(std::string_view name, std::size_t limit = 200) {
  constexpr std::string_view hex = "0123456789abcdef";
  const auto escaped = [&](std::string_view part) {
    std::string out;
    for (const char c : part) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '\n') {
        out += "\\n";
      } else if (c == '\t') {
        out += "\\t";
      } else if (c == '\r') {
        out += "\\r";
      } else if (c == '\\') {
        out += "\\\\";
      } else if (byte < 0x20 || byte == 0x7f) {
        out += "\\x";
        out += hex[byte >> 4U];
        out += hex[byte & 15U];
      } else {
        out += c;
      }
    }
    return out;
  };
  if (name.size() <= limit) {
    return escaped(name);
  }
  const std::size_t half = limit / 2;
  // Never cut inside a UTF-8 sequence: its continuation bytes are 10xxxxxx.
  const auto continuation = [&](std::size_t at) { return (static_cast<unsigned char>(name[at]) & 0xc0U) == 0x80U; };
  std::size_t head = half;
  while (head > 0 && continuation(head)) {
    --head;
  }
  std::size_t tail = name.size() - half;
  while (tail < name.size() && continuation(tail)) {
    ++tail;
  }
  return concat(escaped(name.substr(0, head)), "...(", name.size(), " bytes)...", escaped(name.substr(tail)));
}

}  // namespace fsdpinit
