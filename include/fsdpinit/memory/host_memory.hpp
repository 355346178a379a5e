#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/memory/account.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include <sys/mman.h>
#include <unistd.h>

namespace fsdpinit {

namespace detail {

inline constexpr std::uint64_t huge_page = 2 * mib;

/// The length of the mapping behind an allocation: whole pages.
[[nodiscard]] inline std::uint64_t mapped_bytes(std::uint64_t bytes) noexcept {
  return align_up(bytes, static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)));
}

/// Anonymous memory that begins at a huge page, so that all but its tail can be huge; the tail stays on small pages and
/// resident memory never exceeds what was asked for by more than a page.
[[nodiscard]] inline std::byte* map_huge(std::uint64_t bytes) {
  const std::uint64_t length = mapped_bytes(bytes);
  const std::uint64_t reserve = length + huge_page;
  void* const raw = mmap(nullptr, reserve, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) {
    throw std::bad_alloc();
  }
  auto* const begin = static_cast<std::byte*>(raw);
  const auto address = reinterpret_cast<std::uintptr_t>(raw);
  const std::uint64_t head = align_up(address, huge_page) - address;
  if (head != 0) {
    munmap(begin, head);
  }
  if (reserve - head - length != 0) {
    munmap(begin + head + length, reserve - head - length);
  }
  madvise(begin + head, length, MADV_HUGEPAGE);  // advice: without it the memory is merely slower to touch first
  return begin + head;
}

}  // namespace detail

/// Host memory. Large blocks are mapped and advised to be huge pages (first-touch faults, not copying, dominate a load
/// from the page cache) and go back to the operating system when released; small ones come from the heap.
class host_memory {
 public:
  struct queue {};
  static constexpr bool host_accessible = true;
  static constexpr std::uint64_t alignment = 256;
  static constexpr std::uint64_t mapping_threshold = 1 * mib;

  /// \throws std::bad_alloc.
  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) {
    std::byte* const address = bytes >= mapping_threshold
                                   ? detail::map_huge(bytes)
                                   : static_cast<std::byte*>(::operator new(bytes, std::align_val_t{alignment}));
    account_->add(bytes);
    return address;
  }

  void deallocate(std::byte* address, std::uint64_t bytes) noexcept {
    if (bytes >= mapping_threshold) {
      munmap(address, detail::mapped_bytes(bytes));
    } else {
      ::operator delete(address, std::align_val_t{alignment});
    }
    account_->remove(bytes);
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

  [[nodiscard]] std::uint64_t accounted() const noexcept { return account_->current(); }
  [[nodiscard]] std::uint64_t accounted_peak() const noexcept { return account_->peak(); }
  void restart_peak() noexcept { account_->restart_peak(); }
  /// The account itself, for whoever samples it; it outlives the space.
  [[nodiscard]] std::shared_ptr<const account> shared_account() const noexcept { return account_; }

 private:
  std::shared_ptr<account> account_ = std::make_shared<account>();
};

}  // namespace fsdpinit
