#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// What law kits are written with.

namespace fsdpinit::testing {

using violations = std::vector<std::string>;

namespace detail {

[[nodiscard]] inline std::byte pattern(std::uint64_t seed, std::uint64_t at) noexcept {
  return static_cast<std::byte>((seed * 131 + at * 7 + at / 251 + 1) & 0xffU);
}

[[nodiscard]] inline std::vector<std::byte> patterned(std::uint64_t bytes, std::uint64_t seed) {
  std::vector<std::byte> out(bytes);
  for (std::uint64_t i = 0; i < bytes; ++i) {
    out[i] = pattern(seed, i);
  }
  return out;
}

/// All ranks of the communicator have come here.
template <class C>
void barrier(C& comm) {
  for (std::size_t root = 0; root < comm.size(); ++root) {
    std::byte nothing{};
    comm.broadcast({&nothing, 1}, root);
  }
}

/// Every rank has seen that the attempt is over: operations work again.
template <class C>
void begin_anew(C& comm) {
  comm.rearm();
  if constexpr (requires { comm.connect(); }) {
    comm.connect();
  }
}

/// Runs one check; what it throws is a violation.
class law_list {
 public:
  void expect(bool holds, std::string_view law) {
    if (!holds) {
      broken_.emplace_back(law);
    }
  }
  template <class Fn>
  void run(std::string_view law, Fn&& fn) {
    if (const auto thrown = attempt(std::forward<Fn>(fn))) {
      broken_.push_back(concat(law, ": threw ", thrown->what()));
    }
  }
  /// `fn` throws an error of that code.
  template <class Fn>
  void expect_throw(errc code, std::string_view law, Fn&& fn) {
    const auto thrown = attempt(std::forward<Fn>(fn));
    if (!thrown || thrown->code() != code) {
      broken_.push_back(concat(law, thrown ? concat(": threw ", thrown->what()) : ": threw nothing"));
    }
  }
  [[nodiscard]] violations take() noexcept { return std::move(broken_); }

 private:
  violations broken_;
};

}  // namespace detail

}  // namespace fsdpinit::testing
