#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

/// \file
/// The text of errors. Kept to `<string>` alone so that `core.hpp` stays cheap to include; tables and reports use fmt.

namespace fsdpinit {

namespace detail {

inline void append(std::string& out, std::string_view part) { out += part; }

inline void append_digits(std::string& out, std::uint64_t number) {
  char digits[20];
  char* const end = digits + sizeof digits;
  char* first = end;
  do {
    *--first = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number != 0);
  out.append(first, static_cast<std::size_t>(end - first));
}

template <std::integral Integer>
void append(std::string& out, Integer number) {
  auto size = static_cast<std::uint64_t>(number);
  if constexpr (std::signed_integral<Integer>) {
    if (number < 0) {
      out += '-';
      size = 0 - size;
    }
  }
  append_digits(out, size);
}

/// The length of a prefix without control characters and backslashes, found eight bytes at a time: most names are that.
[[nodiscard]] inline std::size_t plain_prefix(std::string_view part) noexcept {
  constexpr std::uint64_t ones = 0x0101010101010101U;
  const auto has_below = [](std::uint64_t bytes, std::uint64_t bound) {
    return ((bytes - ones * bound) & ~bytes & (ones * 0x80U)) != 0;
  };
  std::uint64_t eight = 0;
  std::size_t at = 0;
  for (; part.size() - at >= sizeof eight; at += sizeof eight) {
    std::memcpy(&eight, part.data() + at, sizeof eight);
    if (has_below(eight, 0x20) || has_below(eight ^ (ones * 0x7fU), 1) || has_below(eight ^ (ones * '\\'), 1)) {
      break;
    }
  }
  return at;
}

/// Control characters and backslashes become `\n`, `\x00`.
inline void append_escaped(std::string& out, std::string_view part) {
  constexpr std::string_view hex = "0123456789abcdef";
  std::size_t added = 0;
  for (std::size_t i = plain_prefix(part); i < part.size(); ++i) {
    const auto byte = static_cast<unsigned char>(part[i]);
    if (byte >= 0x20 && byte != 0x7f && byte != '\\') {
      continue;
    }
    out += part.substr(added, i - added);
    added = i + 1;
    out += '\\';
    if (byte == '\n') {
      out += 'n';
    } else if (byte == '\t') {
      out += 't';
    } else if (byte == '\r') {
      out += 'r';
    } else if (byte == '\\') {
      out += '\\';
    } else {
      out += 'x';
      out += hex[byte >> 4U];
      out += hex[byte & 15U];
    }
  }
  out += part.substr(added);
}

}  // namespace detail

/// Adds the parts, one after the other; integers in decimal.
template <class... Parts>
void append_to(std::string& out, const Parts&... parts) {
  (detail::append(out, parts), ...);
}

/// The parts one after the other.
template <class... Parts>
[[nodiscard]] std::string concat(const Parts&... parts) {
  std::string out;
  append_to(out, parts...);
  return out;
}

/// A name from a checkpoint or a path, made safe for one line of a log: control characters and backslashes are escaped
/// (`\n`, `\x00`), and a name longer than `limit` bytes loses its middle, so that both ends stay visible.
[[nodiscard]] inline std::string printable(std::string_view name, std::size_t limit = 200) {
  std::string out;
  if (name.size() <= limit) {
    detail::append_escaped(out, name);
    return out;
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
  detail::append_escaped(out, name.substr(0, head));
  append_to(out, "...(", name.size(), " bytes)...");
  detail::append_escaped(out, name.substr(tail));
  return out;
}

}  // namespace fsdpinit
