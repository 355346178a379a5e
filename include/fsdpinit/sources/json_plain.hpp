#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

namespace fsdpinit::detail {

/// Containers within each other, of which there have to be fewer. That of serde_json, which the safetensors reference parses with.
inline constexpr std::size_t json_depth_limit = 128;

/// Reads what almost every header and index is made of, and nothing else: objects, arrays, strings without escapes, and unsigned
/// integers below 10^19. Anything else, whether JSON or not, ends it.
///
/// nlohmann's events, as it would report them, of which it takes ten times as long. \pre `text` is UTF-8.
/// \return whether that was all there is.
template <class Events>
[[nodiscard]] bool read_plain_json(std::string_view text, Events& events) {
  constexpr int digits_that_fit = std::numeric_limits<std::uint64_t>::digits10;
  std::array<bool, json_depth_limit> is_object{};  // the containers that are open; `events` throws of one too many
  std::size_t depth = 0;
  std::size_t at = 0;
  std::string word;
  const auto is_at = [&](char c) { return at < text.size() && text[at] == c; };
  const auto take = [&](char c) {
    const bool there = is_at(c);
    at += there ? 1U : 0U;
    return there;
  };
  const auto skip_space = [&] {
    while (is_at(' ') || is_at('\n') || is_at('\r') || is_at('\t')) {
      ++at;
    }
  };
  const auto read_word = [&] {
    if (!take('"')) {
      return false;
    }
    const std::size_t begin = at;
    while (at < text.size() && text[at] != '"' && text[at] != '\\' && static_cast<unsigned char>(text[at]) >= 0x20U) {
      ++at;
    }
    word.assign(text, begin, at - begin);
    return take('"');
  };
  const auto read_key = [&] {
    skip_space();
    if (!read_word()) {
      return false;
    }
    events.key(word);
    skip_space();
    return take(':');
  };
  const auto read_number = [&] {
    const std::size_t begin = at;
    std::uint64_t value = 0;
    const auto is_digit = [&] { return at < text.size() && text[at] >= '0' && text[at] <= '9'; };
    while (is_digit() && at - begin < digits_that_fit) {
      value = value * 10 + static_cast<std::uint64_t>(text[at++] - '0');
    }
    const bool goes_on = is_digit() || is_at('.') || is_at('e') || is_at('E');
    if (at == begin || goes_on || (text[begin] == '0' && at - begin > 1)) {
      return false;
    }
    events.number_unsigned(value);
    return true;
  };
  for (;;) {  // a value is to come
    skip_space();
    if (is_at('{') || is_at('[')) {
      const bool object = text[at++] == '{';
      object ? events.start_object(0) : events.start_array(0);
      is_object[depth++] = object;
      skip_space();
      if (!is_at(object ? '}' : ']')) {
        if (object && !read_key()) {
          return false;
        }
        continue;
      }
    } else if (is_at('"')) {
      if (!read_word()) {
        return false;
      }
      events.string(word);
    } else if (!read_number()) {
      return false;
    }
    for (;;) {  // a value has been, or its container is empty
      skip_space();
      if (depth == 0) {
        return at == text.size();
      }
      const bool object = is_object[depth - 1];
      if (take(',')) {
        if (object && !read_key()) {
          return false;
        }
        break;
      }
      if (!take(object ? '}' : ']')) {
        return false;
      }
      --depth;
      object ? events.end_object() : events.end_array();
    }
  }
}

}  // namespace fsdpinit::detail
