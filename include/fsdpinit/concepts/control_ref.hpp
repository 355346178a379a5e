#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>

namespace fsdpinit {

/// A control channel of any type: a pointer to it, and a table of what it can do. What a channel lacks is made of what it has. For as
/// long as the channel lives; cheap to copy, allocates nothing. It may have a `wait_hook`, which looks while its operations wait: where
/// ranks fail together that may end them, and else not, as no other rank would hear of it.
class control_ref {
 public:
  template <Communicator C>
    requires(!std::same_as<std::remove_const_t<C>, control_ref>)
  control_ref(C& control) noexcept  // NOLINT(google-explicit-constructor): a channel stands for its reference
      : control_(const_cast<void*>(static_cast<const void*>(std::addressof(control)))), table_(&table_of<C>) {}

  /// The same channel with a hook; nullptr: without.
  [[nodiscard]] control_ref looking(wait_hook* hook) const noexcept {
    control_ref out = *this;
    out.hook_ = hook;
    return out;
  }
  [[nodiscard]] wait_hook* hook() const noexcept { return hook_; }

  [[nodiscard]] std::size_t rank() const { return table_->rank(control_); }
  [[nodiscard]] std::size_t size() const { return table_->size(control_); }
  /// Within `limit` where the channel takes one.
  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit) const {
    table_->broadcast(control_, buffer, root, of_hook(limit));
  }
  /// Where the channel does not reduce: one broadcast from each rank.
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit) const {
    return table_->all_reduce_max(control_, value, of_hook(limit));
  }
  /// Does a failed operation fail on every rank? See FailableControl.
  [[nodiscard]] bool fails_together() const { return table_->fails_together(control_); }
  /// The error that all ranks get for this one; the same where ranks do not fail together.
  [[nodiscard]] error fail(const error& cause) const {
    return table_->fail == nullptr ? cause : table_->fail(control_, cause);
  }
  /// Nothing where the channel does not care.
  void suspect(const error& cause) const {
    if (table_->suspect != nullptr) {
      table_->suspect(control_, cause);
    }
  }

 private:
  [[nodiscard]] deadline of_hook(deadline limit) const {
    return hook_ == nullptr ? limit : limit.looking(hook_, fails_together());
  }

  struct table {
    std::size_t (*rank)(const void*);
    std::size_t (*size)(const void*);
    void (*broadcast)(void*, mutable_bytes, std::size_t, deadline);
    std::uint64_t (*all_reduce_max)(void*, std::uint64_t, deadline);
    bool (*fails_together)(const void*);
    error (*fail)(void*, const error&);    // nullptr for a channel that is no FailableControl
    void (*suspect)(void*, const error&);  // the same of one that cannot be told
  };

  template <class C>
  static void broadcast_of(void* control, mutable_bytes buffer, std::size_t root, [[maybe_unused]] deadline limit) {
    C& channel = *static_cast<C*>(control);
    if constexpr (requires { channel.broadcast(buffer, root, limit); }) {
      channel.broadcast(buffer, root, limit);
    } else {
      channel.broadcast(buffer, root);
    }
  }
  template <class C>
  static std::uint64_t all_reduce_max_of(void* control, std::uint64_t value, [[maybe_unused]] deadline limit) {
    C& channel = *static_cast<C*>(control);
    if constexpr (requires { channel.all_reduce_max(value, limit); }) {
      return channel.all_reduce_max(value, limit);
    } else if constexpr (requires { channel.all_reduce_max(value); }) {
      return channel.all_reduce_max(value);
    } else {
      std::uint64_t most = 0;
      for (std::size_t root = 0; root < channel.size(); ++root) {
        std::uint64_t theirs = value;
        channel.broadcast(std::as_writable_bytes(std::span(&theirs, 1)), root);
        most = most < theirs ? theirs : most;
      }
      return most;
    }
  }
  /// A channel that stands for another says what that does.
  template <class C>
  static bool fails_together_of([[maybe_unused]] const void* control) {
    if constexpr (requires(const C& channel) { channel.fails_together(); }) {
      return static_cast<const C*>(control)->fails_together();
    } else {
      return FailableControl<C>;
    }
  }
  template <class C>
  static constexpr auto fail_of() noexcept -> error (*)(void*, const error&) {
    if constexpr (FailableControl<C>) {
      return [](void* control, const error& cause) { return static_cast<C*>(control)->fail(cause); };
    } else {
      return nullptr;
    }
  }
  template <class C>
  static constexpr auto suspect_of() noexcept -> void (*)(void*, const error&) {
    if constexpr (requires(C& channel, const error& cause) { channel.suspect(cause); }) {
      return [](void* control, const error& cause) { static_cast<C*>(control)->suspect(cause); };
    } else {
      return nullptr;
    }
  }
  template <class C>
  static constexpr table table_of{
      .rank = [](const void* control) -> std::size_t { return static_cast<const C*>(control)->rank(); },
      .size = [](const void* control) -> std::size_t { return static_cast<const C*>(control)->size(); },
      .broadcast = &broadcast_of<C>,
      .all_reduce_max = &all_reduce_max_of<C>,
      .fails_together = &fails_together_of<C>,
      .fail = fail_of<C>(),
      .suspect = suspect_of<C>()};

  void* control_;
  const table* table_;
  wait_hook* hook_ = nullptr;
};

}  // namespace fsdpinit
