#include <support/heap_faults.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>

namespace fsdpinit::testing_support {
namespace {

/// Of one thread. Without a fault what an allocation pays is one addition and one comparison.
struct thread_heap {
  std::uint64_t calls = 0;
  std::uint64_t first_failing = std::numeric_limits<std::uint64_t>::max();
  bool exhausted = false;
};
constinit thread_local thread_heap heap;

constexpr std::size_t ordinary_alignment = __STDCPP_DEFAULT_NEW_ALIGNMENT__;

[[nodiscard]] void* allocate(std::size_t bytes, std::size_t alignment) noexcept {
  const std::uint64_t call = heap.calls++;
  if (call >= heap.first_failing && (heap.exhausted || call == heap.first_failing)) {
    return nullptr;
  }
  if (alignment <= ordinary_alignment) {
    return std::malloc(bytes == 0 ? 1 : bytes);
  }
  void* address = nullptr;
  return posix_memalign(&address, alignment, bytes) == 0 ? address : nullptr;
}

[[nodiscard, maybe_unused]] void* allocate_or_throw(std::size_t bytes, std::size_t alignment = ordinary_alignment) {
  void* const address = allocate(bytes, alignment);
  if (address == nullptr) {
    throw std::bad_alloc();
  }
  return address;
}

}  // namespace

std::uint64_t heap_allocations() noexcept { return heap.calls; }

failing_heap::failing_heap(std::uint64_t call, heap_fault how) noexcept : call_(heap.calls + call) {
  heap.first_failing = call_;
  heap.exhausted = how == heap_fault::exhausted;
}
failing_heap::~failing_heap() { heap.first_failing = std::numeric_limits<std::uint64_t>::max(); }
bool failing_heap::has_failed() const noexcept { return heap.calls > call_; }

}  // namespace fsdpinit::testing_support

#if FSDPINIT_HEAP_IS_A_SEAM
using fsdpinit::testing_support::allocate;
using fsdpinit::testing_support::allocate_or_throw;

// All of them, since sanitizers bring forms of their own for each, which do not go through the plain one.
// NOLINTBEGIN(misc-new-delete-overloads,readability-inconsistent-declaration-parameter-name)
void* operator new(std::size_t bytes) { return allocate_or_throw(bytes); }
void* operator new[](std::size_t bytes) { return allocate_or_throw(bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t& /*tag*/) noexcept {
  return allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new[](std::size_t bytes, const std::nothrow_t& /*tag*/) noexcept {
  return allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate_or_throw(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return allocate_or_throw(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, std::align_val_t alignment, const std::nothrow_t& /*tag*/) noexcept {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment, const std::nothrow_t& /*tag*/) noexcept {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* address) noexcept { std::free(address); }
void operator delete[](void* address) noexcept { std::free(address); }
void operator delete(void* address, std::size_t /*bytes*/) noexcept { std::free(address); }
void operator delete[](void* address, std::size_t /*bytes*/) noexcept { std::free(address); }
void operator delete(void* address, const std::nothrow_t& /*tag*/) noexcept { std::free(address); }
void operator delete[](void* address, const std::nothrow_t& /*tag*/) noexcept { std::free(address); }
void operator delete(void* address, std::align_val_t /*alignment*/) noexcept { std::free(address); }
void operator delete[](void* address, std::align_val_t /*alignment*/) noexcept { std::free(address); }
void operator delete(void* address, std::size_t /*bytes*/, std::align_val_t /*alignment*/) noexcept {
  std::free(address);
}
void operator delete[](void* address, std::size_t /*bytes*/, std::align_val_t /*alignment*/) noexcept {
  std::free(address);
}
void operator delete(void* address, std::align_val_t /*alignment*/, const std::nothrow_t& /*tag*/) noexcept {
  std::free(address);
}
void operator delete[](void* address, std::align_val_t /*alignment*/, const std::nothrow_t& /*tag*/) noexcept {
  std::free(address);
}
// NOLINTEND(misc-new-delete-overloads,readability-inconsistent-declaration-parameter-name)
#endif
