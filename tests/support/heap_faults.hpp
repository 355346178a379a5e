#pragma once

#include <cstdint>

// ThreadSanitizer does not let a program replace the operators: nothing is counted there, and nothing fails.
#define FSDPINIT_HEAP_IS_A_SEAM 1
#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#undef FSDPINIT_HEAP_IS_A_SEAM
#define FSDPINIT_HEAP_IS_A_SEAM 0
#endif
#endif

/// \file
/// The heap as a seam: operator new of one thread is counted, and may fail. A program that calls any of this has all of its operators
/// new and delete replaced (heap_faults.cpp); what calls malloc by itself (MPI, the C library, exceptions being thrown) is not seen.

namespace fsdpinit::testing_support {

inline constexpr bool heap_is_a_seam = FSDPINIT_HEAP_IS_A_SEAM != 0;

/// How often this thread has called any operator new.
[[nodiscard]] std::uint64_t heap_allocations() noexcept;

enum class heap_fault : std::uint8_t {
  once,       ///< one allocation fails: a large one, perhaps, on a machine that has little left
  exhausted,  ///< that one and all that follow
};

/// While it lives, an allocation of this thread throws std::bad_alloc. One at a time on a thread.
class failing_heap {
 public:
  /// \param call  counted from 0, from here on
  failing_heap(std::uint64_t call, heap_fault how) noexcept;
  failing_heap(const failing_heap&) = delete;
  failing_heap& operator=(const failing_heap&) = delete;
  ~failing_heap();

  /// Has the allocation that was to fail been asked for? On the same thread.
  [[nodiscard]] bool has_failed() const noexcept;

 private:
  std::uint64_t call_;  // in all of the thread's
};

}  // namespace fsdpinit::testing_support
