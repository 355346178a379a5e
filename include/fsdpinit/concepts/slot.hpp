#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/index/mesh.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

namespace fsdpinit {

/// What a slot holds, and so where its values come from.
enum class slot_role : std::uint8_t {
  parameter,              ///< from the source, sharded or replicated by its placement
  persistent_buffer,      ///< from the source, whole on every rank
  non_persistent_buffer,  ///< not in checkpoints: from the source rank's module, whole on every rank
  undeclared_buffer       ///< persistent if the source has it, else not: for frameworks that do not tell the two apart
};

[[nodiscard]] constexpr std::string_view name(slot_role role) noexcept {
  switch (role) {
    case slot_role::parameter:
      return "parameter";
    case slot_role::persistent_buffer:
      return "persistent buffer";
    case slot_role::non_persistent_buffer:
      return "non-persistent buffer";
    case slot_role::undeclared_buffer:
      return "buffer";
  }
  return "unknown";
}

/// A rank's part of a tensor in storage it owns; complete in <fsdpinit/concepts/local_shard.hpp>.
struct local_shard;

/// The extension point for a framework's own tensor type: specialise it with these static functions.
///
///     template <> struct fsdpinit::slot_traits<my::tensor> {
///       static slot_role role(const my::tensor&);
///       static fsdpinit::dtype dtype(const my::tensor&);
///       static fsdpinit::shape shape(const my::tensor&);            // global
///       static fsdpinit::placement placement(const my::tensor&);    // of buffers: ignored, they are replicated
///       static const std::byte* data(const my::tensor&);            // in the module's memory space; nullptr on meta
///       static std::uint64_t stored_bytes(const my::tensor&);       // optional: the size of what `data` points to
///       static void drop(my::tensor&) noexcept;                     // to meta: storage released, shape and dtype kept
///       static void adopt(my::tensor&, local_shard&&) noexcept;     // take the storage
///       static bool requires_grad(const my::tensor&);               // optional; parameters do, buffers do not
///       static const void* identity(const my::tensor&);             // optional: the same for handles of one tensor
///       static local_shard local(const my::tensor&);                // optional: see LendingSlot
///       static void prepare(my::tensor&, std::span<const local_shard> next);  // optional: see below
///     };
///
/// `prepare` is for tensors that take heap where they are dropped or adopt. It allocates what one `drop` will take, and then one `adopt`
/// of each part of `next`, in that order; it keeps nothing of the parts' storage, and replaces what an earlier call has made, as an
/// attempt may fail in between. It is called on every rank before anything is dropped, and may throw: that is one error for all ranks.
template <class T>
struct slot_traits;

/// The place in a module where one parameter or buffer lives.
///
/// `drop` and `adopt` are noexcept because a module is committed on every rank or on none: nothing may fail in between. So neither
/// allocates, unless `prepare` has been there before.
/// After `drop`, `data` is nullptr; after `adopt` it is the shard's, and dropping again releases it.
template <class T>
concept ParameterSlot = requires(T& slot, const T& constant, local_shard&& part) {
  { slot_traits<T>::role(constant) } -> std::same_as<slot_role>;
  { slot_traits<T>::dtype(constant) } -> std::same_as<fsdpinit::dtype>;
  { slot_traits<T>::shape(constant) } -> std::convertible_to<const fsdpinit::shape&>;
  { slot_traits<T>::placement(constant) } -> std::convertible_to<fsdpinit::placement>;
  { slot_traits<T>::data(constant) } -> std::convertible_to<const std::byte*>;
  { slot_traits<T>::drop(slot) } noexcept;
  { slot_traits<T>::adopt(slot, std::move(part)) } noexcept;
};

namespace detail {

template <class T>
struct slot_clauses {
  using traits = slot_traits<T>;
  static constexpr bool has_traits = requires { sizeof(traits); };
  static constexpr bool has_role = requires(const T& slot) {
    { traits::role(slot) } -> std::same_as<slot_role>;
  };
  static constexpr bool has_dtype = requires(const T& slot) {
    { traits::dtype(slot) } -> std::same_as<fsdpinit::dtype>;
  };
  static constexpr bool has_shape = requires(const T& slot) {
    { traits::shape(slot) } -> std::convertible_to<const fsdpinit::shape&>;
  };
  static constexpr bool has_placement = requires(const T& slot) {
    { traits::placement(slot) } -> std::convertible_to<fsdpinit::placement>;
  };
  static constexpr bool has_data = requires(const T& slot) {
    { traits::data(slot) } -> std::convertible_to<const std::byte*>;
  };
  static constexpr bool has_drop = requires(T& slot) { traits::drop(slot); };
  static constexpr bool drop_is_noexcept = !has_drop || requires(T& slot) {
    { traits::drop(slot) } noexcept;
  };
  static constexpr bool has_adopt = requires(T& slot, local_shard&& part) { traits::adopt(slot, std::move(part)); };
  static constexpr bool adopt_is_noexcept = !has_adopt || requires(T& slot, local_shard&& part) {
    { traits::adopt(slot, std::move(part)) } noexcept;
  };
};

/// Where a type that a module visits is no slot, the compiler says which clause it does not meet; T is named beside it. \return is it one?
template <class T>
[[nodiscard]] consteval bool require_slot() {
  using clauses = slot_clauses<T>;
  static_assert(clauses::has_traits,
                "fsdpinit: the module visits a type T that is no slot; specialise fsdpinit::slot_traits<T>");
  if constexpr (clauses::has_traits && !ParameterSlot<T>) {
    static_assert(clauses::has_role, "fsdpinit: slot_traits<T>::role(const T&) must be static and return slot_role");
    static_assert(clauses::has_dtype,
                  "fsdpinit: slot_traits<T>::dtype(const T&) must be static and return fsdpinit::dtype");
    static_assert(clauses::has_shape,
                  "fsdpinit: slot_traits<T>::shape(const T&) must be static and return the global fsdpinit::shape");
    static_assert(clauses::has_placement,
                  "fsdpinit: slot_traits<T>::placement(const T&) must be static and return shard{dim} or replicate{}");
    static_assert(
        clauses::has_data,
        "fsdpinit: slot_traits<T>::data(const T&) must be static and return const std::byte*, nullptr on meta");
    static_assert(clauses::has_drop,
                  "fsdpinit: slot_traits<T> must have a static void drop(T&) noexcept, which lets go of the storage");
    static_assert(clauses::drop_is_noexcept, "fsdpinit: slot_traits<T>::drop must be noexcept");
    static_assert(
        clauses::has_adopt,
        "fsdpinit: slot_traits<T> must have a static void adopt(T&, local_shard&&) noexcept, which takes the storage");
    static_assert(clauses::adopt_is_noexcept, "fsdpinit: slot_traits<T>::adopt must be noexcept");
  }
  return ParameterSlot<T>;
}

}  // namespace detail

/// Is it trained? Parameters are unless the slot says otherwise, buffers never.
template <ParameterSlot T>
[[nodiscard]] bool requires_grad(const T& slot) {
  if (slot_traits<T>::role(slot) != slot_role::parameter) {
    return false;
  }
  if constexpr (requires { slot_traits<T>::requires_grad(slot); }) {
    return slot_traits<T>::requires_grad(slot);
  } else {
    return true;
  }
}

/// What tells a tensor from others: two slots of which it is the same must be tied. Slots that are handles tell whose; of others it is
/// their own address.
template <ParameterSlot T>
[[nodiscard]] const void* identity(const T& slot) {
  if constexpr (requires { slot_traits<T>::identity(slot); }) {
    return slot_traits<T>::identity(slot);
  } else {
    return &slot;
  }
}

}  // namespace fsdpinit
