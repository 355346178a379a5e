#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>

/// \file
/// The rounds of programs: see program.hpp.

namespace fsdpinit {

enum class round_kind : std::uint8_t {
  generate,  ///< parts of tensors that the source does not have
  load,      ///< a turn of reading everything, where every rank loads the whole model
  keep,      ///< each rank's part of that
  bucket,
  agree,    ///< ranks hear of each other's failures
  reread,   ///< a turn of reading everything again
  compare,  ///< of what several ranks have read: is what each rank holds what its peer has read again?
  finish,   ///< what has travelled narrow becomes wide
};

[[nodiscard]] constexpr std::string_view name(round_kind kind) noexcept {
  switch (kind) {
    case round_kind::generate:
      return "generate";
    case round_kind::load:
      return "load";
    case round_kind::keep:
      return "keep";
    case round_kind::bucket:
      return "bucket";
    case round_kind::agree:
      return "agree";
    case round_kind::reread:
      return "reread";
    case round_kind::compare:
      return "compare";
    case round_kind::finish:
      return "finish";
  }
  return "unknown";
}

enum class round_phase : std::uint8_t { begin, pass_on, end };

[[nodiscard]] constexpr std::string_view name(round_phase phase) noexcept {
  return phase == round_phase::begin ? "begin" : phase == round_phase::pass_on ? "pass-on" : "end";
}

/// The same on every rank. A value: a few of them are all that an interpreter keeps of the rounds in flight.
struct program_round {
  round_kind kind = round_kind::finish;
  std::size_t number = 0;  ///< of all rounds
  std::size_t part = 0;    ///< of a bucket, or a turn, its index; of an agreement how many buckets were before it
  std::size_t slot = 0;    ///< of a bucket
  std::uint64_t unheard =
      0;  ///< of a bucket: bytes of this and those before it that ranks have read without a word to each other
  std::size_t unagreed = 0;  ///< of a bucket: how many there are since the last agreement, with this one
  friend bool operator==(const program_round&, const program_round&) = default;
};

}  // namespace fsdpinit
