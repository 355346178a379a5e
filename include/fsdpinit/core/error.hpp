#pragma once

#include <fsdpinit/core/text.hpp>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

/// \file
/// The one exception type of this library. Whatever fails on one rank is thrown on every rank as the same `error`.

namespace fsdpinit {

enum class errc : std::uint8_t {
  invalid_argument,   ///< an option, a name or a mesh that cannot be meant
  missing_tensor,     ///< the module wants it, the source does not have it
  unexpected_tensor,  ///< the source has it, the module does not want it
  shape_mismatch,
  dtype_mismatch,
  invalid_placement,  ///< a tensor that cannot be sharded as asked
  invalid_tie,        ///< a tie group that does not fit together, or whose stored copies differ
  invalid_file,       ///< a checkpoint that breaks the rules of its format
  corrupted,          ///< with `options::verify`: bytes are not where they belong as they were read
  io,                 ///< the operating system refused; `native_code()` is errno
  out_of_memory,
  disagreement,     ///< ranks were called with different modules, sources or options
  user_exception,   ///< something else than `error` came out of user code
  communication,    ///< a communicator reported a failure
  device,           ///< a device's runtime reported a failure; `native_code()` is its code
  peer_lost,        ///< a rank did not arrive within the deadline
  source_consumed,  ///< the module's own state was the source, and part of it is gone: a retry needs it loaded again
  interrupted,      ///< this rank was fine; a peer aborted. Replaced by the peer's error in the agreement
};

[[nodiscard]] constexpr std::string_view name(errc code) noexcept {
  switch (code) {
    case errc::invalid_argument:
      return "invalid_argument";
    case errc::missing_tensor:
      return "missing_tensor";
    case errc::unexpected_tensor:
      return "unexpected_tensor";
    case errc::shape_mismatch:
      return "shape_mismatch";
    case errc::dtype_mismatch:
      return "dtype_mismatch";
    case errc::invalid_placement:
      return "invalid_placement";
    case errc::invalid_tie:
      return "invalid_tie";
    case errc::invalid_file:
      return "invalid_file";
    case errc::corrupted:
      return "corrupted";
    case errc::io:
      return "io";
    case errc::out_of_memory:
      return "out_of_memory";
    case errc::disagreement:
      return "disagreement";
    case errc::user_exception:
      return "user_exception";
    case errc::communication:
      return "communication";
    case errc::device:
      return "device";
    case errc::peer_lost:
      return "peer_lost";
    case errc::source_consumed:
      return "source_consumed";
    case errc::interrupted:
      return "interrupted";
  }
  return "unknown";
}

/// `error::rank()` where no rank was named yet: the agreement fills in the rank that reports it.
inline constexpr std::int32_t unknown_rank = -1;
/// `error::rank()` of an error that every rank finds by itself, from data all ranks share (a missing tensor, say).
inline constexpr std::int32_t every_rank = -2;

struct error_facts {
  std::int32_t rank = unknown_rank;
  std::int32_t native_code = 0;  ///< errno, or the code of MPI, CUDA, NCCL; 0: none
};

/// What went wrong (`code`), with what (`subject`: an FQN or a file), on which rank, and what to do about it
/// (`what()`).
///
/// `what()` reads `<subject>: <text> (rank <r>)`; further lines of the text are details and follow the first one.
class error : public std::runtime_error {
 public:
  error(errc code, std::string_view subject, std::string_view text, error_facts facts = {})
      : std::runtime_error(compose(subject, text, facts.rank)),
        subject_(subject),
        text_(text),
        facts_(facts),
        code_(code) {}

  [[nodiscard]] errc code() const noexcept { return code_; }
  /// The FQN or the file it is about, unescaped; may be empty.
  [[nodiscard]] const std::string& subject() const noexcept { return subject_; }
  /// `what()` without subject and rank.
  [[nodiscard]] const std::string& text() const noexcept { return text_; }
  [[nodiscard]] std::int32_t rank() const noexcept { return facts_.rank; }
  [[nodiscard]] std::int32_t native_code() const noexcept { return facts_.native_code; }

  /// The same error, reported by `rank`; an error that already names a rank, or every rank, stays as it is.
  [[nodiscard]] error reported_by(std::int32_t rank) const {
    if (facts_.rank != unknown_rank) {
      return *this;
    }
    return {code_, subject_, text_, {.rank = rank, .native_code = facts_.native_code}};
  }

 private:
  static std::string compose(std::string_view subject, std::string_view text, std::int32_t rank) {
    const std::size_t first_line = text.find('\n');
    std::string out = subject.empty() ? std::string{} : concat(printable(subject), ": ");
    out += text.substr(0, first_line);
    if (rank >= 0) {
      out += concat(" (rank ", rank, ")");
    }
    if (first_line != std::string_view::npos) {
      out += text.substr(first_line);
    }
    return out;
  }

  std::string subject_;
  std::string text_;
  error_facts facts_;
  errc code_;
};

}  // namespace fsdpinit
