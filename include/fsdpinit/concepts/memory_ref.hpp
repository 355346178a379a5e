#pragma once

#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

namespace fsdpinit {

class host_memory;

namespace detail {

/// Is it a host_memory, or one that hands out the same memory? Not one whose blocks come from somewhere else: they are locked, or shared.
template <class Space>
concept PlainHostMemory =
    requires { requires std::same_as<decltype(&Space::allocate), std::byte* (host_memory::*)(std::uint64_t)>; };

}  // namespace detail

/// A memory space of any type. It owns a copy of the space, which shares the space's account, and may outlive what it was made of; copies
/// refer to the same one. The operations are those of MemorySpace: one indirect call each.
class memory_ref {
  /// What stands behind: a space, and the queues that were made for it.
  struct model {
    virtual ~model() = default;
    model(const model&) = delete;
    model& operator=(const model&) = delete;
    struct queue {
      virtual ~queue() = default;
      queue() = default;
      queue(const queue&) = delete;
      queue& operator=(const queue&) = delete;
    };
    [[nodiscard]] virtual std::byte* allocate(std::uint64_t bytes) = 0;
    virtual void deallocate(std::byte* address, std::uint64_t bytes) noexcept = 0;
    [[nodiscard]] virtual std::unique_ptr<queue> make_queue() const = 0;
    virtual void copy_in(std::byte* to, const std::byte* from, std::uint64_t stride, std::uint64_t run,
                         std::uint64_t count, queue* order) = 0;
    virtual void copy_out(std::byte* to, const std::byte* from, std::uint64_t bytes, queue* order) = 0;
    virtual void wait(queue* order) = 0;
    virtual void zero(std::byte* to, std::uint64_t bytes, queue* order) = 0;
    virtual void copy_within(std::byte* to, std::uint64_t to_stride, const std::byte* from, std::uint64_t from_stride,
                             std::uint64_t run, std::uint64_t count, queue* order) = 0;
    virtual void widen(dtype from, const std::byte* source, dtype to, std::byte* destination, std::uint64_t count,
                       queue* order) = 0;
    [[nodiscard]] virtual std::uint64_t accounted() const noexcept = 0;
    [[nodiscard]] virtual std::uint64_t accounted_peak() const noexcept = 0;
    virtual void restart_peak() noexcept = 0;
    [[nodiscard]] virtual const host_memory* plain_host_memory() const noexcept = 0;

    const void* const type;  // its identity
    const bool host_accessible;
    const bool copies_within;
    const bool widens;

   protected:
    model(const void* space, bool accessible, bool copies, bool converts) noexcept
        : type(space), host_accessible(accessible), copies_within(copies), widens(converts) {}
  };
  template <class Space>
  static constexpr char type_of{};
  template <MemorySpace Space>
  class model_of;

 public:
  /// Copies that are done in their order. A queue belongs to the space that has made it.
  class queue {
   public:
    queue() = default;  ///< to be assigned to

   private:
    friend memory_ref;
    explicit queue(std::unique_ptr<model::queue> made) noexcept : made_(std::move(made)) {}
    std::unique_ptr<model::queue> made_;  // nullptr where the space's queues are empty
  };

  /// \throws std::bad_alloc, what copying the space throws
  template <class Space>
    requires(!std::same_as<Space, memory_ref> && MemorySpace<Space>)
  explicit memory_ref(Space space);

  [[nodiscard]] bool host_accessible() const noexcept { return space_->host_accessible; }
  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) const { return space_->allocate(bytes); }
  void deallocate(std::byte* address, std::uint64_t bytes) const noexcept { space_->deallocate(address, bytes); }

  /// \throws std::bad_alloc, what making a queue throws
  [[nodiscard]] queue make_queue() const { return queue(space_->make_queue()); }
  void copy_in(std::byte* to, const std::byte* from, std::uint64_t stride, std::uint64_t run, std::uint64_t count,
               queue& order) const {
    space_->copy_in(to, from, stride, run, count, order.made_.get());
  }
  void copy_out(std::byte* to, const std::byte* from, std::uint64_t bytes, queue& order) const {
    space_->copy_out(to, from, bytes, order.made_.get());
  }
  void wait(queue& order) const { space_->wait(order.made_.get()); }

  /// Where the host may touch the space it is done at once, and many pages that nobody has written yet take no memory afterwards either.
  /// \pre nothing that is under way writes there
  void zero(std::byte* to, std::uint64_t bytes, queue& order) const { space_->zero(to, bytes, order.made_.get()); }

  /// Is it a LocallyCopyingMemory?
  [[nodiscard]] bool copies_within() const noexcept { return space_->copies_within; }
  /// \pre copies_within()
  void copy_within(std::byte* to, std::uint64_t to_stride, const std::byte* from, std::uint64_t from_stride,
                   std::uint64_t run, std::uint64_t count, queue& order) const {
    space_->copy_within(to, to_stride, from, from_stride, run, count, order.made_.get());
  }

  /// Is it a WideningMemory?
  [[nodiscard]] bool widens() const noexcept { return space_->widens; }
  /// \pre widens()
  void widen(dtype from, const std::byte* source, dtype to, std::byte* destination, std::uint64_t count,
             queue& order) const {
    space_->widen(from, source, to, destination, count, order.made_.get());
  }

  [[nodiscard]] std::uint64_t accounted() const noexcept { return space_->accounted(); }
  [[nodiscard]] std::uint64_t accounted_peak() const noexcept { return space_->accounted_peak(); }
  void restart_peak() const noexcept { space_->restart_peak(); }

  /// Was it made of a Space?
  template <class Space>
  [[nodiscard]] bool is() const noexcept {
    return space_->type == &type_of<Space>;
  }
  /// The space itself. \pre it was made of a Space.
  template <MemorySpace Space>
  [[nodiscard]] const Space& as() const noexcept;
  /// The space itself, if it is a host_memory or derived from it, and its memory is allocated as that of a host_memory; else nullptr.
  [[nodiscard]] const host_memory* plain_host_memory() const noexcept { return space_->plain_host_memory(); }

 private:
  std::shared_ptr<model> space_;
};

template <MemorySpace Space>
class memory_ref::model_of final : public memory_ref::model {
 public:
  explicit model_of(Space space)
      : model(&type_of<Space>, Space::host_accessible, LocallyCopyingMemory<Space>, WideningMemory<Space>),
        space_(std::move(space)) {}

  [[nodiscard]] const Space& space() const noexcept { return space_; }

  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) override { return space_.allocate(bytes); }
  void deallocate(std::byte* address, std::uint64_t bytes) noexcept override { space_.deallocate(address, bytes); }
  [[nodiscard]] std::unique_ptr<queue> make_queue() const override {
    if constexpr (is_stateless) {
      return nullptr;
    } else {
      return std::make_unique<queue_of>();
    }
  }
  void copy_in(std::byte* to, const std::byte* from, std::uint64_t stride, std::uint64_t run, std::uint64_t count,
               queue* order) override {
    in(order, [&](auto& of_space) { space_.copy_in(to, from, stride, run, count, of_space); });
  }
  void copy_out(std::byte* to, const std::byte* from, std::uint64_t bytes, queue* order) override {
    in(order, [&](auto& of_space) { space_.copy_out(to, from, bytes, of_space); });
  }
  void wait(queue* order) override {
    in(order, [&](auto& of_space) { space_.wait(of_space); });
  }
  void zero(std::byte* to, std::uint64_t bytes, [[maybe_unused]] queue* order) override {
    if constexpr (LocallyCopyingMemory<Space>) {
      in(order, [&](auto& of_space) { space_.zero(to, bytes, of_space); });
    } else {
      static constexpr std::array<std::byte, 4 * kib> zeros{};
      [[maybe_unused]] const bool is_large = bytes >= mib;  // of pages from the system, as a rule, which are zero
      for (std::uint64_t run = 0; bytes != 0; bytes -= run, to += run) {
        run = bytes < zeros.size() ? bytes : zeros.size();
        if constexpr (!Space::host_accessible) {
          copy_in(to, zeros.data(), run, run, 1, order);
        } else if (!is_large || std::memcmp(to, zeros.data(), run) != 0) {
          std::memset(to, 0, run);
        }
      }
    }
  }
  void copy_within([[maybe_unused]] std::byte* to, [[maybe_unused]] std::uint64_t to_stride,
                   [[maybe_unused]] const std::byte* from, [[maybe_unused]] std::uint64_t from_stride,
                   [[maybe_unused]] std::uint64_t run, [[maybe_unused]] std::uint64_t count,
                   [[maybe_unused]] queue* order) override {
    if constexpr (LocallyCopyingMemory<Space>) {
      in(order, [&](auto& of_space) { space_.copy_within(to, to_stride, from, from_stride, run, count, of_space); });
    }
  }
  void widen([[maybe_unused]] dtype from, [[maybe_unused]] const std::byte* source, [[maybe_unused]] dtype to,
             [[maybe_unused]] std::byte* destination, [[maybe_unused]] std::uint64_t count,
             [[maybe_unused]] queue* order) override {
    if constexpr (WideningMemory<Space>) {
      in(order, [&](auto& of_space) { space_.widen(from, source, to, destination, count, of_space); });
    }
  }
  [[nodiscard]] std::uint64_t accounted() const noexcept override { return space_.accounted(); }
  [[nodiscard]] std::uint64_t accounted_peak() const noexcept override { return space_.accounted_peak(); }
  void restart_peak() noexcept override { space_.restart_peak(); }
  [[nodiscard]] const host_memory* plain_host_memory() const noexcept override {
    if constexpr (detail::PlainHostMemory<Space>) {
      return &space_;
    } else {
      return nullptr;
    }
  }

 private:
  static constexpr bool is_stateless = std::is_empty_v<typename Space::queue>;
  struct queue_of final : queue {
    typename Space::queue order{};
  };

  template <class Fn>
  static void in([[maybe_unused]] queue* order, Fn&& fn) {
    if constexpr (is_stateless) {
      typename Space::queue none{};
      fn(none);
    } else {
      fn(static_cast<queue_of*>(order)->order);
    }
  }

  Space space_;
};

template <class Space>
  requires(!std::same_as<Space, memory_ref> && MemorySpace<Space>)
memory_ref::memory_ref(Space space) : space_(std::make_shared<model_of<Space>>(std::move(space))) {}

template <MemorySpace Space>
const Space& memory_ref::as() const noexcept {
  return static_cast<const model_of<Space>&>(*space_).space();
}

}  // namespace fsdpinit
