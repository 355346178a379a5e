#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/element_values.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/index/partition.hpp>
#include <fsdpinit/modules/counter_rng.hpp>

#include <gsl/assert>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

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
/// element at a global, row-major index, as a number that `element_of` makes one of the tensor's dtype. Equal on every rank, and
/// pure: a rank calls it for its own elements only. It may have a member `makes(info)`: whether it can make that tensor, which is
/// asked before anything changes; others can make all.
template <class F>
concept MissingInitialiser = requires(F& initialise, const missing_tensor_info& info, std::uint64_t index) {
  { initialise(info)(index) } -> std::convertible_to<double>;
};

/// The same value everywhere: 0 for biases and counters, 1 for scales. For every dtype that holds it, as `element_of` says.
struct constant_values {
  double value = 0;
  [[nodiscard]] constexpr bool makes(const missing_tensor_info& info) const noexcept {
    return element_of(value, info.dtype).has_value();
  }
  [[nodiscard]] auto operator()(const missing_tensor_info& /*info*/) const noexcept {
    return [value = value](std::uint64_t /*index*/) noexcept { return value; };
  }
};

/// Do random numbers make sense in it? F64 (with the digits of F32), F32, F16, BF16.
[[nodiscard]] constexpr bool holds_random_values(dtype type) noexcept {
  return is_convertible_float(type) || type == dtype::f64;
}

/// Normal values, for F64, F32, F16 and BF16; by default with the deviation that most language models are initialised with.
struct normal_values {
  std::uint64_t seed = 0;
  double mean = 0;
  double deviation = 0.02;
  [[nodiscard]] constexpr bool makes(const missing_tensor_info& info) const noexcept {
    return holds_random_values(info.dtype);
  }
  [[nodiscard]] auto operator()(const missing_tensor_info& info) const noexcept {
    return [random = counter_rng(seed, info.fqn), mean = mean, deviation = deviation](std::uint64_t index) noexcept {
      return random.normal(index, mean, deviation);
    };
  }
};

/// Uniform values in [from, to), for F64, F32, F16 and BF16.
struct uniform_values {
  std::uint64_t seed = 0;
  double from = 0;
  double to = 1;
  [[nodiscard]] constexpr bool makes(const missing_tensor_info& info) const noexcept {
    return holds_random_values(info.dtype);
  }
  [[nodiscard]] auto operator()(const missing_tensor_info& info) const noexcept {
    return [random = counter_rng(seed, info.fqn), from = from, to = to](std::uint64_t index) noexcept {
      return random.uniform(index, from, to);
    };
  }
};

namespace detail {

template <class T>
struct initialiser_clauses {
  static constexpr bool takes_a_tensor = requires(T& initialise, const missing_tensor_info& info) { initialise(info); };
  static constexpr bool returns_a_generator =
      requires(T& initialise, const missing_tensor_info& info, std::uint64_t index) { initialise(info)(index); };
  static constexpr bool generates_numbers = MissingInitialiser<T>;
  static constexpr bool has_makes =
      requires(T& initialise, const missing_tensor_info& info) { initialise.makes(info); };
  static constexpr bool makes_is_const_and_returns_bool =
      !has_makes || requires(const T& initialise, const missing_tensor_info& info) {
        { initialise.makes(info) } -> std::convertible_to<bool>;
      };
};

/// Where T is no initialiser of missing tensors, the compiler says which clause it does not meet; T is named beside it. \return is it
/// one?
template <class T>
[[nodiscard]] consteval bool require_initialiser() {
  using clauses = initialiser_clauses<T>;
  if constexpr (!clauses::takes_a_tensor) {
    static_assert(
        clauses::takes_a_tensor,
        "fsdpinit: `missing` must be a MissingInitialiser: T must be callable with const missing_tensor_info&, "
        "and return the generator of that tensor's elements");
  } else if constexpr (!clauses::returns_a_generator) {
    static_assert(clauses::returns_a_generator,
                  "fsdpinit: `missing`: what T returns for a tensor must be callable with std::uint64_t index, and "
                  "return that element; for one value everywhere use constant_values");
  } else {
    static_assert(clauses::generates_numbers,
                  "fsdpinit: `missing`: what T returns for a tensor must return a number for an index: double");
  }
  static_assert(clauses::makes_is_const_and_returns_bool,
                "fsdpinit: `missing`: T::makes(info) must be const and return bool");
  return MissingInitialiser<T> && clauses::makes_is_const_and_returns_bool;
}

}  // namespace detail

/// \throws error{invalid_argument} naming the tensor, if the initialiser does not make it, or its dtype has less than a byte.
template <class F>
void require_initialisable(const F& initialise, const missing_tensor_info& tensor) {
  bool makes = bits(tensor.dtype) >= 8;
  if constexpr (requires {
                  { initialise.makes(tensor) } -> std::convertible_to<bool>;
                }) {
    makes = makes && initialise.makes(tensor);
  }
  if (!makes) {
    throw error(errc::invalid_argument, tensor.fqn,
                concat("the checkpoint does not have it, and these initial values cannot be ", name(tensor.dtype),
                       "; initialise it with a constant that it holds (constant_values), let a buffer keep its own "
                       "value with keep_missing_buffers, or add it to the checkpoint"),
                {.rank = every_rank});
  }
}

namespace detail {

/// \throws error{invalid_argument} naming the tensor, for a number that its dtype does not hold.
inline void store_elements(const missing_tensor_info& tensor, std::span<const double> values, std::byte* to) {
  if (holds_random_values(tensor.dtype)) {
    convert_floats(dtype::f64, reinterpret_cast<const std::byte*>(values.data()), tensor.dtype, to, values.size());
    return;
  }
  const std::uint64_t width = bits(tensor.dtype) / 8;
  std::optional<std::uint64_t> element;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i == 0 || values[i] != values[i - 1]) {
      element = element_of(values[i], tensor.dtype);
    }
    if (!element) {
      throw error(errc::invalid_argument, tensor.fqn,
                  concat("is to be initialised with ", std::to_string(values[i]), ", which ", name(tensor.dtype),
                         " does not hold; give it another value"));
    }
    for (std::uint64_t byte = 0; byte < width; ++byte) {
      *to++ = static_cast<std::byte>(*element >> (8 * byte));
    }
  }
}

}  // namespace detail

/// Writes the part of `rank` (its index along the mesh's shard dimension) of a tensor that is partitioned as `how`:
/// `generate(i)`, as `element_of` makes it one of the tensor's dtype, for each global index i that the rank holds.
/// `destination` is its shard in host memory, contiguous, without padding; it need not be aligned.
///
/// No allocation; one call of `generate` for each element of the shard, in ascending order.
/// \throws error{invalid_argument} naming the tensor, for a number that its dtype does not hold, or a dtype of less than a byte;
/// what `generate` throws.
/// \pre destination.size() == how.local_bytes(rank).
template <class Generate>
void fill_shard(const missing_tensor_info& tensor, const partition& how, std::size_t rank, Generate&& generate,
                mutable_bytes destination) {
  require_initialisable(generate, tensor);
  Expects(destination.size() == how.local_bytes(rank));
  const std::uint64_t width = bits(tensor.dtype) / 8;
  for_each_run(how.region(rank), 0, destination.size(),
               [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
                 constexpr std::size_t at_once = 64;
                 std::array<double, at_once> values;
                 std::uint64_t index = global / width;
                 std::byte* to = destination.data() + local;
                 for (std::uint64_t left = length / width; left != 0;) {
                   const std::uint64_t count = smaller(left, at_once);
                   for (std::uint64_t i = 0; i < count; ++i) {
                     values[i] = static_cast<double>(generate(index + i));
                   }
                   detail::store_elements(tensor, std::span(values).first(count), to);
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
  require_initialisable(initialise, tensor);
  fill_shard(tensor, how, rank, initialise(tensor), destination);
}

/// A MissingInitialiser of any type: a pointer to it, and what it does with whole tensors. For as long as the initialiser lives; nothing
/// is indirect per element.
class initialiser_ref {
 public:
  /// An initialiser with which the compiler finds nothing wrong, or it says which clause is not met.
  template <class F>
    requires(!std::same_as<std::remove_cvref_t<F>, initialiser_ref>)
  // NOLINTNEXTLINE(google-explicit-constructor,bugprone-forwarding-reference-overload,*-missing-std-forward): stands for it
  initialiser_ref(F&& initialise) noexcept
      : initialise_(const_cast<void*>(static_cast<const void*>(std::addressof(initialise)))) {
    if constexpr (detail::require_initialiser<std::remove_reference_t<F>>()) {
      table_ = &table_of<std::remove_reference_t<F>>;
    }
  }

  /// See `require_initialisable`.
  void require_initialisable(const missing_tensor_info& tensor) const { table_->require(initialise_, tensor); }
  /// See `initialise_missing`.
  void fill(const missing_tensor_info& tensor, const partition& how, std::size_t rank,
            mutable_bytes destination) const {
    table_->fill(initialise_, tensor, how, rank, destination);
  }

 private:
  struct table {
    void (*require)(const void*, const missing_tensor_info&);
    void (*fill)(void*, const missing_tensor_info&, const partition&, std::size_t, mutable_bytes);
  };
  template <class F>
  static constexpr table table_of{.require =
                                      [](const void* initialise, const missing_tensor_info& tensor) {
                                        fsdpinit::require_initialisable(*static_cast<const F*>(initialise), tensor);
                                      },
                                  .fill =
                                      [](void* initialise, const missing_tensor_info& tensor, const partition& how,
                                         std::size_t rank, mutable_bytes destination) {
                                        initialise_missing(*static_cast<F*>(initialise), tensor, how, rank,
                                                           destination);
                                      }};

  void* initialise_ = nullptr;
  const table* table_ = nullptr;
};

}  // namespace fsdpinit
