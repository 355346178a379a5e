#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

/// \file
/// What the fuzzers have in common. libFuzzer calls LLVMFuzzerTestOneInput and takes an abort as a finding.

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fsdpinit::fuzz {

inline void require(bool holds, std::string_view what) {
  if (!holds) {
    std::fprintf(stderr, "fuzz: %.*s\n", static_cast<int>(what.size()), what.data());
    std::abort();
  }
}

/// An error for a reader of logs: one line, without control characters.
inline void require_printable(std::string_view text) {
  for (const char c : text) {
    require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, "an error text with a control character");
  }
  require(!text.empty(), "an error without a text");
}

}  // namespace fsdpinit::fuzz
