#pragma once

#include <fsdpinit/core/compiler.hpp>
#include <fsdpinit/core/text.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
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
  cancelled,        ///< the program asked for a stop (`extras::stop`), on the rank that it names
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
    case errc::cancelled:
      return "cancelled";
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

namespace detail {

/// The texts of an error: one allocation, never changed, that its copies share, so that none of them can fail. Counted by hand, as
/// `<memory>` would make core.hpp a third dearer to include.
class shared_texts {
 public:
  /// None.
  shared_texts() noexcept = default;
  /// \throws std::bad_alloc
  shared_texts(std::string_view what, std::string_view subject, std::string_view text)
      : block_(new(::operator new(sizeof(header) + what.size() + 1 + subject.size() + text.size()))
                   header{.uses = 1, .what = what.size(), .subject = subject.size(), .text = text.size()}) {
    char* to = begin();
    to += what.copy(to, what.size());
    *to++ = '\0';
    to += subject.copy(to, subject.size());
    text.copy(to, text.size());
  }
  shared_texts(const shared_texts& other) noexcept : block_(other.block_) {
    if (block_ != nullptr) {
      __atomic_add_fetch(&block_->uses, 1, __ATOMIC_RELAXED);
    }
  }
  shared_texts(shared_texts&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  shared_texts& operator=(shared_texts other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~shared_texts() {
    if (block_ != nullptr && __atomic_sub_fetch(&block_->uses, 1, __ATOMIC_ACQ_REL) == 0) {
      ::operator delete(block_);
    }
  }

  [[nodiscard]] bool empty() const noexcept { return block_ == nullptr; }
  // \pre !empty()
  [[nodiscard]] const char* what() const noexcept { return begin(); }
  [[nodiscard]] std::string_view subject() const noexcept { return {begin() + block_->what + 1, block_->subject}; }
  [[nodiscard]] std::string_view text() const noexcept {
    return {begin() + block_->what + 1 + block_->subject, block_->text};
  }

 private:
  struct header {  // the texts lie behind it
    std::size_t uses;
    std::size_t what;
    std::size_t subject;
    std::size_t text;
  };
  [[nodiscard]] char* begin() const noexcept { return reinterpret_cast<char*>(block_ + 1); }

  header* block_ = nullptr;
};

}  // namespace detail

/// What went wrong (`code`), with what (`subject`: an FQN or a file), on which rank, and what to do about it
/// (`what()`).
///
/// `what()` reads `<subject>: <text> (rank <r>)`; further lines of the text are details and follow the first one. Copies share the
/// texts: copying never fails.
class error : public std::exception {
 public:
  /// \throws std::bad_alloc where there is no memory for the texts.
  error(errc code, std::string_view subject, std::string_view text, error_facts facts = {});

  /// Takes no memory: what an exhausted heap is reported with. Without a subject, and with a text that was written beforehand, which
  /// does not name the rank.
  [[nodiscard]] static error without_text(errc code, error_facts facts = {}) noexcept { return {code, facts}; }
  /// With its texts if there is memory for them.
  [[nodiscard]] static error if_possible_with_text(errc code, std::string_view subject, std::string_view text,
                                                   error_facts facts = {}) noexcept {
    try {
      return {code, subject, text, facts};
    } catch (const std::exception&) {
      return {code, facts};
    }
  }

  [[nodiscard]] const char* what() const noexcept override {
    return texts_.empty() ? prepared_text(code_).data() : texts_.what();
  }
  [[nodiscard]] errc code() const noexcept { return code_; }
  /// The FQN or the file it is about, unescaped; may be empty. As long as this error or a copy of it.
  [[nodiscard]] std::string_view subject() const noexcept {
    return texts_.empty() ? std::string_view() : texts_.subject();
  }
  /// `what()` without subject and rank. As long as this error or a copy of it.
  [[nodiscard]] std::string_view text() const noexcept { return texts_.empty() ? prepared_text(code_) : texts_.text(); }
  [[nodiscard]] std::int32_t rank() const noexcept { return facts_.rank; }
  [[nodiscard]] std::int32_t native_code() const noexcept { return facts_.native_code; }
  /// The exception that this is about, on the rank where it was thrown; nullptr on others, and for an error that began here. What it
  /// refers to lives as long as this error or a copy of it.
  [[nodiscard]] const std::exception_ptr& cause() const noexcept { return cause_; }
  [[nodiscard]] error caused_by(std::exception_ptr cause) const noexcept {
    error out = *this;
    out.cause_ = std::move(cause);
    return out;
  }

  /// The same error, reported by `rank`; an error that already names a rank, or every rank, stays as it is. Without memory its texts
  /// are lost.
  [[nodiscard]] error reported_by(std::int32_t rank) const noexcept {
    if (facts_.rank != unknown_rank) {
      return *this;
    }
    const error_facts facts{.rank = rank, .native_code = facts_.native_code};
    return (texts_.empty() ? error(code_, facts) : if_possible_with_text(code_, subject(), text(), facts))
        .caused_by(cause_);
  }

 private:
  error(errc code, error_facts facts) noexcept : facts_(facts), code_(code) {}

  /// Of literals: data() ends with a NUL.
  [[nodiscard]] static constexpr std::string_view prepared_text(errc code) noexcept {
    return code == errc::out_of_memory
               ? "out of memory; use more ranks, smaller buckets, or a machine with more memory"
               : "this rank had no memory left for the text of its error; see what the other ranks say";
  }
  [[nodiscard]] static std::string compose(std::string_view subject, std::string_view text, std::int32_t rank);

  detail::shared_texts texts_;
  std::exception_ptr cause_;
  error_facts facts_;
  errc code_;
};

}  // namespace fsdpinit

#if FSDPINIT_DEFINES

namespace fsdpinit {

FSDPINIT_INLINE error::error(errc code, std::string_view subject, std::string_view text, error_facts facts)
    : texts_(compose(subject, text, facts.rank), subject, text), facts_(facts), code_(code) {}

FSDPINIT_INLINE std::string error::compose(std::string_view subject, std::string_view text, std::int32_t rank) {
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

}  // namespace fsdpinit

#endif
