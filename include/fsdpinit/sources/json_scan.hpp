#pragma once

#include <fsdpinit/core/error.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

/// \file
/// JSON read event by event. A document tree would drop repeated keys, which the rules of safetensors forbid, and would
/// hold the whole header a second time.

namespace fsdpinit::detail {

/// The length of a prefix of `text` that is ASCII, found eight bytes at a time.
[[nodiscard]] inline std::size_t ascii_prefix(std::string_view text) noexcept {
  constexpr std::uint64_t high_bits = 0x8080808080808080U;
  std::uint64_t eight = 0;
  std::size_t at = 0;
  for (; text.size() - at >= sizeof eight; at += sizeof eight) {
    std::memcpy(&eight, text.data() + at, sizeof eight);
    if ((eight & high_bits) != 0) {
      break;
    }
  }
  return at;
}

/// The length of the longest prefix of `text` that is UTF-8 (RFC 3629: no overlong forms, no surrogates).
[[nodiscard]] inline std::size_t valid_utf8_prefix(std::string_view text) noexcept {
  const auto byte = [&](std::size_t at) { return static_cast<unsigned>(static_cast<unsigned char>(text[at])); };
  std::size_t at = 0;
  while (at < text.size()) {
    at += ascii_prefix(text.substr(at));
    if (at == text.size()) {
      break;
    }
    const unsigned lead = byte(at);
    if (lead < 0x80U) {
      ++at;
      continue;
    }
    std::size_t length = 0;
    unsigned lowest = 0x80U;  // of the second byte: where overlong forms, surrogates and U+110000 are kept out
    unsigned highest = 0xbfU;
    if (lead >= 0xc2U && lead <= 0xdfU) {
      length = 2;
    } else if (lead >= 0xe0U && lead <= 0xefU) {
      length = 3;
      lowest = lead == 0xe0U ? 0xa0U : lowest;
      highest = lead == 0xedU ? 0x9fU : highest;
    } else if (lead >= 0xf0U && lead <= 0xf4U) {
      length = 4;
      lowest = lead == 0xf0U ? 0x90U : lowest;
      highest = lead == 0xf4U ? 0x8fU : highest;
    } else {
      return at;
    }
    if (text.size() - at < length || byte(at + 1) < lowest || byte(at + 1) > highest) {
      return at;
    }
    for (std::size_t i = 2; i < length; ++i) {
      if ((byte(at + i) & 0xc0U) != 0x80U) {
        return at;
      }
    }
    at += length;
  }
  return at;
}

/// A value that is neither object nor array.
struct json_scalar {
  std::string* text = nullptr;            ///< a string, unescaped; may be moved from
  const std::uint64_t* number = nullptr;  ///< an unsigned 64-bit integer literal
  std::string_view other = {};            ///< `null`, `true`, or any other number as it is written

  /// For error texts.
  [[nodiscard]] std::string shown() const {
    if (text != nullptr) {
      return concat("\"", printable(*text), "\"");
    }
    return number != nullptr ? std::to_string(*number) : printable(other);
  }
};

/// From nlohmann's SAX events to a `Handler`: `key(std::string&)`, `scalar(json_scalar)`, `begin(bool object)` and
/// `end(depth)` with the depth that is left. Handlers throw. \see scan_json
template <class Handler>
class json_events {
 public:
  json_events(std::string_view file, std::string_view document, Handler& handler)
      : file_(file), document_(document), handler_(handler) {}

  bool null() { return scalar({.other = "null"}); }
  bool boolean(bool value) { return scalar({.other = value ? "true" : "false"}); }
  // Literals with a minus sign only, `-0` included: nlohmann reports it as the integer 0.
  bool number_integer(std::int64_t value) {
    return scalar({.other = value == 0 ? std::string("-0") : std::to_string(value)});
  }
  bool number_unsigned(std::uint64_t value) { return scalar({.number = &value}); }
  // Fractions, exponents, and integers that do not fit into 64 bits.
  bool number_float(double /*value*/, const std::string& literal) { return scalar({.other = literal}); }
  bool string(std::string& value) { return scalar({.text = &value}); }
  bool binary(nlohmann::json::binary_t& /*value*/) { return false; }  // not in text

  bool key(std::string& name) {
    handler_.key(name);
    return true;
  }
  bool start_object(std::size_t /*elements*/) { return begin(true); }
  bool start_array(std::size_t /*elements*/) { return begin(false); }
  bool end_object() { return end(); }
  bool end_array() { return end(); }

  [[noreturn]] bool parse_error(std::size_t position, const std::string& /*token*/,
                                const nlohmann::json::exception& cause) {
    // "[json.exception...] parse error at line 1, column 5: <reason>; last read: '<token>'; expected ...": the token
    // may be as long as the document and may end inside a character.
    std::string_view reason = cause.what();
    const auto skip_past = [&](std::string_view mark) {
      if (const auto at = reason.find(mark); at != std::string_view::npos) {
        reason.remove_prefix(at + mark.size());
      }
    };
    skip_past("] ");
    if (reason.starts_with("parse error")) {
      skip_past(": ");
    }
    reason = reason.substr(0, reason.find("; last read"));
    throw error(errc::invalid_file, file_,
                concat(document_, " is not valid JSON at byte ", position, ": ", printable(reason),
                       "; download or save the file again"));
  }

 private:
  // serde_json, which the safetensors reference parses with, stops at this depth.
  static constexpr std::size_t depth_limit = 128;

  bool scalar(json_scalar value) {
    handler_.scalar(value);
    return true;
  }
  bool begin(bool object) {
    if (++depth_ >= depth_limit) {
      throw error(errc::invalid_file, file_,
                  concat(document_, " nests ", depth_limit, " levels of objects and arrays; fewer are allowed"));
    }
    handler_.begin(object);
    return true;
  }
  bool end() {
    handler_.end(--depth_);
    return true;
  }

  std::string_view file_;
  std::string_view document_;
  Handler& handler_;
  std::size_t depth_ = 0;
};

/// Reads `text`, one JSON value in UTF-8 with white space around it, into `handler`. `document` is its name in errors,
/// "the header". Cost linear in `text`.
/// \throws error{invalid_file} naming `file`: no UTF-8, a byte order mark, a NUL, no JSON, 128 levels of nesting or
/// more.
template <class Handler>
void scan_json(std::string_view file, std::string_view document, std::string_view text, Handler& handler) {
  // Two things that nlohmann's lexer lets pass: it skips a byte order mark, and takes NUL for the end.
  if (text.starts_with("\xef\xbb\xbf")) {
    throw error(errc::invalid_file, file,
                concat(document, " starts with a byte order mark (BOM), which is not JSON; save it without"));
  }
  if (const auto nul = text.find('\0'); nul != std::string_view::npos) {
    throw error(errc::invalid_file, file,
                concat(document, " holds a NUL at byte ", nul, ", which is not JSON; pad with spaces"));
  }
  if (const std::size_t valid = valid_utf8_prefix(text); valid != text.size()) {
    throw error(errc::invalid_file, file,
                concat(document, " is not UTF-8 at byte ", valid, "; download or save the file again"));
  }
  json_events<Handler> events(file, document, handler);
  nlohmann::json::sax_parse(text.data(), text.data() + text.size(), &events);
}

}  // namespace fsdpinit::detail
