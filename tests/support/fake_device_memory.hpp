#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/memory/account.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include <sys/mman.h>

namespace fsdpinit::testing_support {

/// A memory space that behaves like a GPU's, without one: its addresses are reserved without any access, so that host
/// code that touches them dies, and its copies happen no earlier than `wait`, so that host code that reuses a buffer
/// too early, or never waits, is found out by the values.
class fake_device_memory {
 public:
  struct queue {
    std::vector<std::function<void()>> pending;
  };
  static constexpr bool host_accessible = false;

  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) { return device_->allocate(bytes); }
  void deallocate(std::byte* address, std::uint64_t bytes) noexcept { device_->deallocate(address, bytes); }

  void copy_in(std::byte* destination, const std::byte* source, std::uint64_t stride, std::uint64_t run,
               std::uint64_t count, queue& order) {
    order.pending.emplace_back([=, device = device_] {
      for (std::uint64_t i = 0; i < count && run != 0; ++i) {
        std::memcpy(device->shadow_of(destination + i * run, run), source + i * stride, run);
      }
      ++device->copies_in;
    });
  }
  void copy_out(std::byte* destination, const std::byte* source, std::uint64_t bytes, queue& order) {
    order.pending.emplace_back([=, device = device_] {
      if (bytes != 0) {
        std::memcpy(destination, device->shadow_of(source, bytes), bytes);
      }
      ++device->copies_out;
    });
  }
  void wait(queue& order) {
    for (const std::function<void()>& copy : std::exchange(order.pending, {})) {
      copy();
    }
  }

  [[nodiscard]] std::uint64_t accounted() const noexcept { return device_->books.current(); }
  [[nodiscard]] std::uint64_t accounted_peak() const noexcept { return device_->books.peak(); }
  void restart_peak() noexcept { device_->books.restart_peak(); }

  /// Copies that were carried out.
  [[nodiscard]] std::uint64_t copies_in() const noexcept { return device_->copies_in; }
  [[nodiscard]] std::uint64_t copies_out() const noexcept { return device_->copies_out; }

 private:
  struct device {
    ~device() {
      for (const auto& [address, memory] : blocks) {
        munmap(address, memory.size());
      }
    }
    std::byte* allocate(std::uint64_t bytes) {
      void* const address = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (address == MAP_FAILED) {
        throw std::bad_alloc();
      }
      const std::lock_guard lock(mutex);
      blocks.emplace(static_cast<std::byte*>(address), std::vector<std::byte>(bytes, std::byte{0xa5}));
      books.add(bytes);
      return static_cast<std::byte*>(address);
    }
    void deallocate(std::byte* address, std::uint64_t bytes) noexcept {
      const std::lock_guard lock(mutex);
      munmap(address, bytes);
      blocks.erase(address);
      books.remove(bytes);
    }
    std::byte* shadow_of(const std::byte* address, std::uint64_t bytes) {
      const std::lock_guard lock(mutex);
      auto at = blocks.upper_bound(const_cast<std::byte*>(address));
      if (at != blocks.begin()) {
        --at;
        const auto offset = static_cast<std::uint64_t>(address - at->first);
        if (offset + bytes <= at->second.size()) {
          return at->second.data() + offset;
        }
      }
      throw std::logic_error(concat("a copy of ", bytes, " bytes lies outside the memory of the device"));
    }

    std::mutex mutex;
    std::map<std::byte*, std::vector<std::byte>> blocks;
    account books;
    std::atomic<std::uint64_t> copies_in{0};
    std::atomic<std::uint64_t> copies_out{0};
  };

  std::shared_ptr<device> device_ = std::make_shared<device>();
};

}  // namespace fsdpinit::testing_support
