#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <string_view>

/// \file
/// The text of errors. Kept to `<string>` alone so that `core.hpp` stays cheap to include; tables and reports use fmt.

namespace fsdpinit {

namespace detail {

/// A part of a text, for as long as what it was made of: a string, or an integer in decimal.
class text_part {
 public:
  explicit text_part(std::string_view text) noexcept : text_(text.data()), size_(text.size()) {}
  template <std::integral Integer>
  explicit text_part(Integer number) noexcept : size_(static_cast<std::uint64_t>(number)), kind_(kind_of(number)) {}

  /// \throws std::bad_alloc
  void append_to(std::string& out) const;

 private:
  enum class kind : std::uint8_t { text, number, negative };

  template <std::integral Integer>
  static constexpr kind kind_of([[maybe_unused]] Integer number) noexcept {
    if constexpr (std::signed_integral<Integer>) {
      return number < 0 ? kind::negative : kind::number;
    }
    return kind::number;
  }

  const char* text_ = nullptr;
  std::uint64_t size_;  // of a text; else the number, or its complement to 2^64
  kind kind_ = kind::text;
};

// Not templates: a function that throws an error builds an array, and no more.
FSDPINIT_INLINE void append_parts(std::string& out, std::initializer_list<text_part> parts);
[[nodiscard]] FSDPINIT_INLINE std::string joined(std::initializer_list<text_part> parts);

/// Control characters and backslashes become `\n`, `\x00`.
FSDPINIT_INLINE void append_escaped(std::string& out, std::string_view part);

}  // namespace detail

/// Adds the parts, one after the other; integers in decimal.
template <class... Parts>
void append_to(std::string& out, const Parts&... parts) {
  detail::append_parts(out, {detail::text_part(parts)...});
}

/// The parts one after the other.
template <class... Parts>
[[nodiscard]] std::string concat(const Parts&... parts) {
  return detail::joined({detail::text_part(parts)...});
}

/// A name from a checkpoint or a path, made safe for one line of a log: control characters and backslashes are escaped
/// (`\n`, `\x00`), and a name longer than `limit` bytes loses its middle, so that both ends stay visible.
[[nodiscard]] FSDPINIT_INLINE std::string printable(std::string_view name, std::size_t limit = 200);

}  // namespace fsdpinit

#if FSDPINIT_DEFINES

namespace fsdpinit {

namespace detail {

FSDPINIT_INLINE void text_part::append_to(std::string& out) const {
  if (kind_ == kind::text) {
    out.append(text_, size_);
    return;
  }
  char digits[21];
  char* const end = digits + sizeof digits;
  char* first = end;
  std::uint64_t left = kind_ == kind::negative ? 0 - size_ : size_;
  do {
    *--first = static_cast<char>('0' + left % 10);
    left /= 10;
  } while (left != 0);
  if (kind_ == kind::negative) {
    *--first = '-';
  }
  out.append(first, static_cast<std::size_t>(end - first));
}

FSDPINIT_INLINE void append_parts(std::string& out, std::initializer_list<text_part> parts) {
  for (const text_part& each : parts) {
    each.append_to(out);
  }
}

FSDPINIT_INLINE std::string joined(std::initializer_list<text_part> parts) {
  std::string out;
  append_parts(out, parts);
  return out;
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

FSDPINIT_INLINE void append_escaped(std::string& out, std::string_view part) {
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

FSDPINIT_INLINE std::string printable(std::string_view name, std::size_t limit) {
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

#endif
