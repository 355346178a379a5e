#pragma once

#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/core/bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace fsdpinit {

/// One allocation of a memory space, released with it. Zero bytes allocate nothing.
template <MemorySpace Space>
class block {
 public:
  /// \throws what the space throws.
  block(Space space, std::uint64_t bytes)
      : space_(std::move(space)), data_(bytes == 0 ? nullptr : space_.allocate(bytes)), bytes_(bytes) {}
  block(block&& other) noexcept
      : space_(std::move(other.space_)),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  block& operator=(block&& other) noexcept {
    block taken(std::move(other));
    std::swap(space_, taken.space_);
    std::swap(data_, taken.data_);
    std::swap(bytes_, taken.bytes_);
    return *this;
  }
  /// Gives the memory back early.
  void release() noexcept {
    if (data_ != nullptr) {
      space_.deallocate(std::exchange(data_, nullptr), std::exchange(bytes_, 0));
    }
  }
  block(const block&) = delete;
  block& operator=(const block&) = delete;
  ~block() { release(); }

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::uint64_t size() const noexcept { return bytes_; }
  /// As host memory. \pre the space is host-accessible.
  [[nodiscard]] mutable_bytes bytes() const noexcept
    requires(Space::host_accessible)
  {
    return {data_, bytes_};
  }

 private:
  Space space_;
  std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
};

}  // namespace fsdpinit
