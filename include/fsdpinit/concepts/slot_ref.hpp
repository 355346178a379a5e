#pragma once

#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/index/mesh.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

namespace fsdpinit {

/// What `slot_ref::stored_bytes` says of slots that do not tell.
inline constexpr std::uint64_t unknown_bytes = static_cast<std::uint64_t>(-1);

/// A slot of any type: a pointer to it, and a table of its traits. For as long as the slot stays where it is. For the cold path: bytes
/// never pass through here.
class slot_ref {
 public:
  template <ParameterSlot T>
  explicit slot_ref(T& slot) noexcept : slot_(std::addressof(slot)), table_(&table_of<T>) {}

  [[nodiscard]] slot_role role() const { return table_->role(slot_); }
  [[nodiscard]] fsdpinit::dtype dtype() const { return table_->dtype(slot_); }
  [[nodiscard]] fsdpinit::shape shape() const { return table_->shape(slot_); }
  /// Of buffers: replicated, whatever the slot says.
  [[nodiscard]] fsdpinit::placement placement() const { return table_->placement(slot_); }
  [[nodiscard]] bool requires_grad() const { return table_->requires_grad(slot_); }
  [[nodiscard]] const void* identity() const { return table_->identity(slot_); }

  [[nodiscard]] const std::byte* data() const { return table_->data(slot_); }
  /// Bytes that the slot holds now, if its traits tell: `static std::uint64_t stored_bytes(const T&)`.
  [[nodiscard]] std::uint64_t stored_bytes() const { return table_->stored_bytes(slot_); }
  /// What the next `drop` and an `adopt` of each of these may not allocate, is allocated now. \throws what the slot throws
  void prepare(std::span<const local_shard> next) const {
    if (table_->prepare != nullptr) {
      table_->prepare(slot_, next);
    }
  }
  void drop() const noexcept { table_->drop(slot_); }
  void adopt(local_shard&& part) const noexcept { table_->adopt(slot_, std::move(part)); }
  /// \pre the slot models LendingSlot.
  [[nodiscard]] local_shard local() const { return table_->local(slot_); }

  /// Where the slot is, for whoever knows its type.
  [[nodiscard]] void* address() const noexcept { return slot_; }

 private:
  struct table {
    slot_role (*role)(const void*);
    fsdpinit::dtype (*dtype)(const void*);
    fsdpinit::shape (*shape)(const void*);
    fsdpinit::placement (*placement)(const void*);
    bool (*requires_grad)(const void*);
    const void* (*identity)(const void*);
    const std::byte* (*data)(const void*);
    std::uint64_t (*stored_bytes)(const void*);
    void (*drop)(void*) noexcept;
    void (*adopt)(void*, local_shard&&) noexcept;
    void (*prepare)(void*, std::span<const local_shard>) = nullptr;  // for a slot that has no need of it
    local_shard (*local)(const void*) = nullptr;                     // for a slot that does not lend
  };

  template <class T>
  static const T& as(const void* slot) noexcept {
    return *static_cast<const T*>(slot);
  }
  template <class T>
  static fsdpinit::placement placement_of(const void* slot) {
    if (slot_traits<T>::role(as<T>(slot)) == slot_role::parameter) {
      return slot_traits<T>::placement(as<T>(slot));
    }
    return replicate{};
  }
  template <class T>
  static std::uint64_t stored_bytes_of([[maybe_unused]] const void* slot) {
    if constexpr (requires(const T& constant) { slot_traits<T>::stored_bytes(constant); }) {
      return slot_traits<T>::stored_bytes(as<T>(slot));
    } else {
      return unknown_bytes;
    }
  }
  template <class T>
  static constexpr table make_table() noexcept {
    table out{
        .role = [](const void* slot) { return slot_traits<T>::role(as<T>(slot)); },
        .dtype = [](const void* slot) { return slot_traits<T>::dtype(as<T>(slot)); },
        .shape = [](const void* slot) -> fsdpinit::shape { return slot_traits<T>::shape(as<T>(slot)); },
        .placement = &placement_of<T>,
        .requires_grad = [](const void* slot) { return fsdpinit::requires_grad(as<T>(slot)); },
        .identity = [](const void* slot) { return fsdpinit::identity(as<T>(slot)); },
        .data = [](const void* slot) -> const std::byte* { return slot_traits<T>::data(as<T>(slot)); },
        .stored_bytes = &stored_bytes_of<T>,
        .drop = [](void* slot) noexcept { slot_traits<T>::drop(*static_cast<T*>(slot)); },
        .adopt = [](void* slot,
                    local_shard&& part) noexcept { slot_traits<T>::adopt(*static_cast<T*>(slot), std::move(part)); }};
    if constexpr (requires(T& slot, std::span<const local_shard> next) { slot_traits<T>::prepare(slot, next); }) {
      out.prepare = [](void* slot, std::span<const local_shard> next) {
        slot_traits<T>::prepare(*static_cast<T*>(slot), next);
      };
    }
    if constexpr (LendingSlot<T>) {
      out.local = [](const void* slot) -> local_shard { return slot_traits<T>::local(as<T>(slot)); };
    }
    return out;
  }
  template <class T>
  static constexpr table table_of = make_table<T>();

  void* slot_;
  const table* table_;
};

}  // namespace fsdpinit
