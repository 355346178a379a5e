#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/init/counter_rng.hpp>
#include <fsdpinit/plan/byte_region.hpp>
#include <fsdpinit/plan/partition.hpp>

#include <gsl/assert>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

/// \file
/// Values for tensors that the module wants and the checkpoint does not have. Each rank makes its own part, where it
/// lies: nothing is sent, and the whole is the same however it is sharded.

namespace fsdpinit {

/// A tensor to be initialised; `fqn` is the first of its names.
struct missing_tensor_info {
  std::string_view fqn{};
  fsdpinit::dtype dtype = fsdpinit::dtype::f32;
  fsdpinit::shape shape{};  ///< global
};

/// Says what to put into missing tensors: `initialise(info)` returns that tensor's generator, whose call gives the
/// element at a global, row-major index. Equal on every rank, and pure: a rank calls it for its own elements only.
template <class F>
concept MissingInitialiser = requires(F& initialise, const missing_tensor_info& info, std::uint64_t index) {
  { initialise(info)(index) } -> std::convertible_to<float>;
};

/// The same value everywhere: 0 for biases, 1 for scales.
struct constant_values {
  float value = 0;
  [[nodiscard]] auto operator()(const missing_tensor_info& /*info*/) const noexcept {
    return [value = value](std::uint64_t /*index*/) noexcept { return value; };
  }
};

/// Normal values; by default with the deviation that most language models are initialised with.
struct normal_values {
  std::uint64_t seed = 0;
  double mean = 0;
  double deviation = 0.02;
  [[nodiscard]] auto operator()(const missing_tensor_info& info) const noexcept {
    return [random = counter_rng(seed, info.fqn), mean = mean, deviation = deviation](std::uint64_t index) noexcept {
      return random.normal(index, mean, deviation);
    };
  }
};

/// Uniform values in [from, to).
struct uniform_values {
  std::uint64_t seed = 0;
  double from = 0;
  double to = 1;
  [[nodiscard]] auto operator()(const missing_tensor_info& info) const noexcept {
    return [random = counter_rng(seed, info.fqn), from = from, to = to](std::uint64_t index) noexcept {
      return random.uniform(index, from, to);
    };
  }
};

/// Stands for none: missing tensors stay on meta.
struct no_initialiser {};

/// \throws error{invalid_argument} naming the tensor, for a dtype other than F32, F16, BF16.
inline void require_initialisable(const missing_tensor_info& tensor) {
  if (!is_convertible_float(tensor.dtype)) {
    throw error(errc::invalid_argument, tensor.fqn,
                concat("the checkpoint does not have it, and ", name(tensor.dtype),
                       " cannot be initialised: only F32, F16 and BF16 are; add it to the checkpoint"),
                {.rank = every_rank});
  }
}

/// Writes the part of `rank` (its index along the mesh's shard dimension) of a tensor that is partitioned as `how`:
/// `generate(i)`, rounded to the tensor's dtype (nearest, ties to even), for each global index i that the rank holds.
/// `destination` is its shard in host memory, contiguous, without padding; it need not be aligned.
///
/// No allocation; one call of `generate` for each element of the shard, in ascending order.
/// \throws error{invalid_argument} naming the tensor, for a dtype other than F32, F16, BF16; what `generate` throws.
/// \pre destination.size() == how.local_bytes(rank).
template <class Generate>
void fill_shard(const missing_tensor_info& tensor, const partition& how, std::size_t rank, Generate&& generate,
                mutable_bytes destination) {
  require_initialisable(tensor);
  Expects(destination.size() == how.local_bytes(rank));
  const std::uint64_t width = bits(tensor.dtype) / 8;
  for_each_run(
      how.region(rank), 0, destination.size(), [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
        constexpr std::size_t at_once = 64;
        std::array<float, at_once> values;
        std::uint64_t index = global / width;
        std::byte* to = destination.data() + local;
        for (std::uint64_t left = length / width; left != 0;) {
          const std::uint64_t count = smaller(left, at_once);
          for (std::uint64_t i = 0; i < count; ++i) {
            values[i] = static_cast<float>(generate(index + i));
          }
          convert_floats(dtype::f32, reinterpret_cast<const std::byte*>(values.data()), tensor.dtype, to, count);
          index += count;
          to += count * width;
          left -= count;
        }
      });
}

/// The same, with the generator that `initialise` returns for this tensor.
template <MissingInitialiser F>
void initialise_missing(F&& initialise, const missing_tensor_info& tensor, const partition& how, std::size_t rank,
                        mutable_bytes destination) {
  fill_shard(tensor, how, rank, initialise(tensor), destination);
}

}  // namespace fsdpinit
