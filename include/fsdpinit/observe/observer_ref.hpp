#pragma once

#include <fsdpinit/observe/observer.hpp>

#include <concepts>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace fsdpinit {

/// An observer of any type: a pointer to it, and a table of what it is told. For as long as the observer lives.
class observer_ref {
 public:
  /// Of nobody who observes.
  observer_ref() = default;
  /// An observer with which the compiler finds nothing wrong, or it says which clause is not met.
  template <class Watch>
    requires(!std::same_as<std::remove_cvref_t<Watch>, observer_ref>)
  // NOLINTNEXTLINE(google-explicit-constructor,bugprone-forwarding-reference-overload,*-missing-std-forward): stands for it
  observer_ref(Watch&& watch) noexcept : watch_(const_cast<void*>(static_cast<const void*>(std::addressof(watch)))) {
    if constexpr (detail::require_observer<std::remove_reference_t<Watch>>()) {
      table_ = &table_of<std::remove_reference_t<Watch>>;
    }
  }

  void phase(const char* name) const {
    if (table_ != nullptr) {
      table_->phase(watch_, name);
    }
  }
  void progress(std::uint64_t done, std::uint64_t total) const {
    if (table_ != nullptr) {
      table_->progress(watch_, done, total);
    }
  }
  /// Is it a WaitingObserver?
  [[nodiscard]] bool hears_of_waits() const noexcept { return table_ != nullptr && table_->waiting != nullptr; }
  /// \pre hears_of_waits()
  void waiting(const char* what, double seconds) const noexcept { table_->waiting(watch_, what, seconds); }
  /// Is it a PollingObserver?
  [[nodiscard]] bool polls() const noexcept { return table_ != nullptr && table_->poll != nullptr; }
  /// Nothing for one that does not poll.
  void poll() const {
    if (polls()) {
      table_->poll(watch_);
    }
  }

 private:
  struct table {
    void (*phase)(void*, const char*);
    void (*progress)(void*, std::uint64_t, std::uint64_t);
    void (*waiting)(void*, const char*, double) noexcept;  // nullptr for one that does not hear of waits
    void (*poll)(void*);                                   // the same of one that does not poll
  };
  template <class Watch>
  static constexpr auto waiting_of() noexcept -> void (*)(void*, const char*, double) noexcept {
    if constexpr (WaitingObserver<Watch>) {
      return [](void* watch, const char* what, double seconds) noexcept {
        static_cast<Watch*>(watch)->waiting(what, seconds);
      };
    } else {
      return nullptr;
    }
  }
  template <class Watch>
  static constexpr auto poll_of() noexcept -> void (*)(void*) {
    if constexpr (PollingObserver<Watch>) {
      return [](void* watch) { static_cast<Watch*>(watch)->poll(); };
    } else {
      return nullptr;
    }
  }
  template <class Watch>
  static constexpr table table_of{
      .phase = [](void* watch, const char* name) { static_cast<Watch*>(watch)->phase(name); },
      .progress = [](void* watch, std::uint64_t done,
                     std::uint64_t total) { static_cast<Watch*>(watch)->progress(done, total); },
      .waiting = waiting_of<Watch>(),
      .poll = poll_of<Watch>()};

  void* watch_ = nullptr;
  const table* table_ = nullptr;
};

}  // namespace fsdpinit
