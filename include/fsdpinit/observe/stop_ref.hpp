#pragma once

#include <fsdpinit/core/compiler.hpp>

#include <concepts>
#include <memory>
#include <type_traits>

namespace fsdpinit {

/// Says whether the program asks for a stop: a `std::stop_token`, or anything else with its `stop_requested()`. Asked on the rank's own
/// thread; once it has said so it goes on to.
template <class T>
concept StopRequest = requires(const T& constant) {
  { constant.stop_requested() } -> std::same_as<bool>;
};

/// A StopRequest of any type. For as long as that lives.
class stop_ref {
 public:
  /// Nobody ever asks for a stop.
  stop_ref() = default;
  /// One with which the compiler finds nothing wrong, or it says what is missing.
  template <class Stop>
    requires(!std::same_as<std::remove_cvref_t<Stop>, stop_ref>)
  // NOLINTNEXTLINE(google-explicit-constructor,bugprone-forwarding-reference-overload,*-missing-std-forward): stands for it
  stop_ref(Stop&& stop) noexcept : stop_(static_cast<const void*>(std::addressof(stop))) {
    using given = std::remove_cvref_t<Stop>;
    static_assert(StopRequest<given>,
                  "fsdpinit: `stop` must be a StopRequest: T must have bool stop_requested() const");
    if constexpr (StopRequest<given>) {
      requested_ = [](const void* of) { return static_cast<const given*>(of)->stop_requested(); };
    }
  }

  /// Is there anybody who may ask?
  [[nodiscard]] bool has_any() const noexcept { return requested_ != nullptr; }
  [[nodiscard]] bool stop_requested() const { return requested_ != nullptr && requested_(stop_); }

 private:
  const void* stop_ = nullptr;
  bool (*requested_)(const void*) = nullptr;
};

}  // namespace fsdpinit
