#pragma once

#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/memory/account.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include <sys/mman.h>
#include <unistd.h>

namespace fsdpinit {

/// What pages large blocks of host memory are made of.
enum class huge_pages : std::uint8_t {
  on,   ///< huge where the system has them: first touch, which dominates a load from the page cache, is faster
  off,  ///< small: on a busy virtual machine whose host takes free pages back, reads into huge ones may take several times as long
  as_the_system,  ///< as /sys/kernel/mm/transparent_hugepage/enabled says, without advice
};

struct host_memory_options {
  fsdpinit::huge_pages huge_pages = fsdpinit::huge_pages::on;
};

namespace detail {

/// The length of the mapping behind an allocation: whole pages.
[[nodiscard]] inline std::uint64_t mapped_bytes(std::uint64_t bytes) noexcept {
  return align_up(bytes, static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)));
}

/// Anonymous memory, as a rule advised to be huge pages, right below the address `above` where that is free. Neighbours merge into one
/// range, so that a huge page may span them: a unit's slab is a few huge pages and a large remainder, which on small pages
/// would cost most of the time of touching it. No page is mapped that was not asked for.
[[nodiscard]] inline std::byte* map_pages(std::uint64_t bytes, huge_pages kind, std::uintptr_t above) {
  const std::uint64_t length = mapped_bytes(bytes);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): a hint, which the kernel may ignore
  void* const hint = reinterpret_cast<void*>(above > length ? above - length : 0);
  void* const mapped = mmap(hint, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) {
    throw std::bad_alloc();
  }
  if (kind !=
      huge_pages::as_the_system) {  // advice: where it is refused the memory is the same, and merely not as fast
    madvise(mapped, length, kind == huge_pages::on ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  }
  return static_cast<std::byte*>(mapped);
}

}  // namespace detail

/// Host memory. Large blocks are mapped, of huge pages unless `host_memory_options` says otherwise, and go back to the operating system when released; small ones come from the heap.
class host_memory {
 public:
  struct queue {};
  static constexpr bool host_accessible = true;
  static constexpr std::uint64_t alignment = 256;
  /// Smaller ones may come and go in each training step, as units are made whole: on fresh pages each time that takes ten times as
  /// long, or more.
  static constexpr std::uint64_t mapping_threshold = 1 * mib;

  /// \throws std::bad_alloc, as of the next.
  host_memory() = default;
  explicit host_memory(const host_memory_options& how) : options_(how) {}

  /// \throws std::bad_alloc.
  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) {
    std::byte* address = nullptr;
    if (bytes >= mapping_threshold) {
      address = detail::map_pages(bytes, options_.huge_pages, state_->lowest.load(std::memory_order_relaxed));
      state_->lowest.store(reinterpret_cast<std::uintptr_t>(address), std::memory_order_relaxed);
    } else {
      address = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{alignment}));
    }
    state_->bytes.add(bytes);
    return address;
  }

  void deallocate(std::byte* address, std::uint64_t bytes) noexcept {
    if (bytes >= mapping_threshold) {
      munmap(address, detail::mapped_bytes(bytes));
    } else {
      ::operator delete(address, std::align_val_t{alignment});
    }
    state_->bytes.remove(bytes);
  }

  void copy_in(std::byte* destination, const std::byte* source, std::uint64_t stride, std::uint64_t run,
               std::uint64_t count, queue& /*order*/) noexcept {
    for (std::uint64_t i = 0; i < count; ++i) {
      std::memcpy(destination + i * run, source + i * stride, run);
    }
  }
  void copy_out(std::byte* destination, const std::byte* source, std::uint64_t bytes, queue& /*order*/) noexcept {
    std::memcpy(destination, source, bytes);
  }
  void wait(queue& /*order*/) noexcept {}

  [[nodiscard]] std::uint64_t accounted() const noexcept { return state_->bytes.current(); }
  [[nodiscard]] std::uint64_t accounted_peak() const noexcept { return state_->bytes.peak(); }
  void restart_peak() noexcept { state_->bytes.restart_peak(); }
  /// The account itself, for whoever samples it; it outlives the space.
  [[nodiscard]] std::shared_ptr<const account> shared_account() const noexcept { return {state_, &state_->bytes}; }

 protected:
  // For spaces that hand out other memory under the same account.
  void add_to_account(std::uint64_t bytes) noexcept { state_->bytes.add(bytes); }
  void remove_from_account(std::uint64_t bytes) noexcept { state_->bytes.remove(bytes); }

 private:
  struct state {
    account bytes;
    std::atomic<std::uintptr_t> lowest{0};  // address of the last mapping: the next one goes below it
  };
  host_memory_options options_;
  std::shared_ptr<state> state_ = std::make_shared<state>();
};

namespace detail {

/// Where buckets are staged: in the module's own space if the host may touch it, else in the host memory that it names, or any.
template <MemorySpace Space>
[[nodiscard]] auto staging_for([[maybe_unused]] const Space& memory) {
  if constexpr (Space::host_accessible) {
    return memory;
  } else if constexpr (requires { memory.staging(); }) {
    return memory.staging();
  } else {
    return host_memory();
  }
}

template <class Space>
using staging_space = decltype(staging_for(std::declval<const Space&>()));

}  // namespace detail

/// The `memory` of a call that names none: a `host_memory` of the rank's own. A tag, because a memory space has an account on the heap,
/// and a default argument is made in the caller, where a rank whose heap is exhausted could not tell the others.
struct default_memory {};

namespace detail {

/// The space that stands behind what was given.
template <class Given>
struct space_behind {
  using type = Given;
};
template <>
struct space_behind<default_memory> {
  using type = host_memory;
};
template <class Given>
using space_of = typename space_behind<Given>::type;

}  // namespace detail

}  // namespace fsdpinit
