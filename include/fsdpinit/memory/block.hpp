#pragma once

#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <utility>

namespace fsdpinit {

namespace detail {

/// May the host touch what it gives? A memory_ref knows it, its type does not.
template <class Space>
inline constexpr bool is_on_host = true;
template <MemorySpace Space>
inline constexpr bool is_on_host<Space> = Space::host_accessible;

}  // namespace detail

/// One allocation of a memory space, or of what a memory_ref refers to, released with it. Zero bytes allocate nothing.
template <class Space>
class block {
 public:
  /// \throws what the space throws; std::bad_alloc where it returns nullptr.
  block(Space space, std::uint64_t bytes)
      : space_(std::move(space)), data_(bytes == 0 ? nullptr : space_.allocate(bytes)), bytes_(bytes) {
    if (data_ == nullptr && bytes != 0) {
      throw std::bad_alloc();
    }
  }
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
    requires(detail::is_on_host<Space>)
  {
    return {data_, bytes_};
  }

 private:
  Space space_;
  std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
};

/// A block of which a failure says how much was asked for and what for: `purpose()` is called only then, and returns text.
/// \throws error{out_of_memory} where the space cannot give so much, with what it says itself; and what else it throws.
template <class Space, class Purpose>
[[nodiscard]] block<Space> block_for(Space space, std::uint64_t bytes, Purpose&& purpose) {
  std::string cause;
  try {
    return block<Space>(std::move(space), bytes);
  } catch (const std::bad_alloc&) {
  } catch (const error& failed) {
    if (failed.code() != errc::out_of_memory) {
      throw;
    }
    cause = concat(" (", failed.text(), ")");
  }
  throw error(
      errc::out_of_memory, "",
      concat("the memory space cannot give ", bytes, " bytes", cause, " for ", std::forward<Purpose>(purpose)()));
}

}  // namespace fsdpinit
