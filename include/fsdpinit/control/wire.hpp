#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

/// \file
/// How small host-side facts travel: little-endian 64-bit numbers, and strings with their length in front. Every rank
/// runs the same build, so the form needs no version.

namespace fsdpinit::detail {

class wire_writer {
 public:
  void number(std::uint64_t value) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + sizeof value);
    std::memcpy(bytes_.data() + at, &value, sizeof value);
  }
  void text(std::string_view value) {
    number(value.size());
    const std::size_t at = bytes_.size();
    bytes_.resize(at + value.size());
    if (!value.empty()) {
      std::memcpy(bytes_.data() + at, value.data(), value.size());
    }
  }
  [[nodiscard]] std::vector<std::byte>& bytes() noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

class wire_reader {
 public:
  explicit wire_reader(bytes_view bytes) noexcept : rest_(bytes) {}

  std::uint64_t number() {
    std::uint64_t value = 0;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  /// As long as the message.
  std::string_view text() {
    const std::uint64_t size = number();
    const bytes_view from = take(size);
    return {reinterpret_cast<const char*>(from.data()), from.size()};
  }

 private:
  bytes_view take(std::uint64_t count) {
    if (count > rest_.size()) {
      throw error(errc::communication, "", "a control message ended early; are all ranks running the same build?");
    }
    const bytes_view taken = rest_.first(count);
    rest_ = rest_.subspan(count);
    return taken;
  }
  bytes_view rest_;
};

/// An error on the wire, cut to fit: 4 KiB carry the whole of any sensible message. On the stack: the heap may be what it is about.
inline constexpr std::size_t error_wire_bytes = 4096;
using error_message = std::array<std::byte, error_wire_bytes>;

/// As reported by `rank`, if it names none.
[[nodiscard]] inline error_message encode(const error& value, std::int32_t rank = unknown_rank) noexcept {
  constexpr std::size_t fixed = 5 * sizeof(std::uint64_t);
  constexpr std::size_t subject_limit = 1024;
  error_message out{};
  std::byte* to = out.data();
  const auto append = [&](const void* from, std::size_t size) {
    if (size != 0) {  // else it may be nowhere
      std::memcpy(to, from, size);
    }
    to += size;
  };
  const auto number = [&](std::uint64_t each) { append(&each, sizeof each); };
  const auto text = [&](std::string_view each) {
    number(each.size());
    append(each.data(), each.size());
  };
  const std::string_view subject = value.subject().substr(0, subject_limit);
  number(static_cast<std::uint64_t>(value.code()));
  number(static_cast<std::uint64_t>(static_cast<std::int64_t>(value.rank() == unknown_rank ? rank : value.rank())));
  number(static_cast<std::uint64_t>(static_cast<std::int64_t>(value.native_code())));
  text(subject);
  text(value.text().substr(0, error_wire_bytes - fixed - subject.size()));
  return out;
}

/// Without its texts where there is no memory for them: the same code on every rank.
[[nodiscard]] inline error decode_error(bytes_view bytes) {
  wire_reader in(bytes);
  const auto code = static_cast<errc>(in.number());
  const auto rank = static_cast<std::int32_t>(static_cast<std::int64_t>(in.number()));
  const auto native_code = static_cast<std::int32_t>(static_cast<std::int64_t>(in.number()));
  const std::string_view subject = in.text();
  const std::string_view text = in.text();
  return error::if_possible_with_text(code, subject, text, {.rank = rank, .native_code = native_code});
}

/// \pre contents.stored is empty, or as long as contents.tensors.
inline void encode(wire_writer& out, const state_dict_contents& contents) {
  out.bytes().reserve(128 * contents.tensors.size());  // a guess
  out.number(contents.tensors.size());
  out.number(contents.stored.empty() ? 0 : 1);
  for (std::size_t i = 0; i < contents.tensors.size(); ++i) {
    const tensor_descriptor& tensor = contents.tensors[i];
    out.text(tensor.name);
    if (!contents.stored.empty()) {
      out.text(contents.stored[i].name);
      out.number(static_cast<std::uint64_t>(contents.stored[i].dtype));
    }
    out.number(static_cast<std::uint64_t>(tensor.dtype));
    out.number(tensor.shape.rank());
    for (const std::uint64_t dim : tensor.shape) {
      out.number(dim);
    }
  }
  out.number(contents.unlisted.size());
  for (const unlisted_tensor& each : contents.unlisted) {
    out.text(each.name);
    out.text(each.file);
  }
}
[[nodiscard]] inline std::vector<std::byte> encode(const state_dict_contents& contents) {
  wire_writer out;
  encode(out, contents);
  return std::move(out.bytes());
}

[[nodiscard]] inline state_dict_contents decode_contents(wire_reader& in) {
  state_dict_contents contents;
  contents.tensors.resize(in.number());
  contents.stored.resize(in.number() == 0 ? 0 : contents.tensors.size());
  std::vector<std::uint64_t> dims;
  for (std::size_t i = 0; i < contents.tensors.size(); ++i) {
    tensor_descriptor& tensor = contents.tensors[i];
    tensor.name = in.text();
    if (!contents.stored.empty()) {
      contents.stored[i].name = in.text();
      contents.stored[i].dtype = static_cast<dtype>(in.number());
    }
    tensor.dtype = static_cast<dtype>(in.number());
    dims.resize(in.number());
    for (std::uint64_t& dim : dims) {
      dim = in.number();
    }
    tensor.shape = shape(dims);
  }
  contents.unlisted.resize(in.number());
  for (unlisted_tensor& each : contents.unlisted) {
    each.name = in.text();
    each.file = in.text();
  }
  return contents;
}
[[nodiscard]] inline state_dict_contents decode_contents(bytes_view bytes) {
  wire_reader in(bytes);
  return decode_contents(in);
}

}  // namespace fsdpinit::detail
