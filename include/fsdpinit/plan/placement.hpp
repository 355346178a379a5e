#pragma once

#include <fsdpinit/core/text.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace fsdpinit {

/// Placement: split along `dim` over the ranks of the mesh. Negative dims count from the last one.
struct shard {
  std::int64_t dim = 0;
  friend bool operator==(const shard&, const shard&) = default;
};

/// Placement: every rank holds the whole tensor.
struct replicate {
  friend bool operator==(const replicate&, const replicate&) = default;
};

/// How one tensor lies on the mesh: `shard{dim}` (the default is dim 0) or `replicate{}`.
class placement {
 public:
  constexpr placement() noexcept = default;
  // NOLINTNEXTLINE(google-explicit-constructor): a placement is written as `shard{1}` or `replicate{}`
  constexpr placement(shard how) noexcept : dim_(how.dim), sharded_(true) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  constexpr placement(replicate /*how*/) noexcept : sharded_(false) {}

  [[nodiscard]] constexpr bool is_shard() const noexcept { return sharded_; }
  /// The dim as it was given, perhaps negative. 0 for `replicate`.
  [[nodiscard]] constexpr std::int64_t dim() const noexcept { return dim_; }

  friend bool operator==(const placement&, const placement&) = default;

 private:
  std::int64_t dim_ = 0;
  bool sharded_ = true;
};

/// `shard{0}`, `replicate`.
[[nodiscard]] inline std::string to_string(placement how) {
  return how.is_shard() ? concat("shard{", how.dim(), "}") : "replicate";
}

}  // namespace fsdpinit
