#pragma once

#include <fsdpinit/adapters/torch_first.hpp>

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/normal_ops.h>
#include <ATen/ops/uniform_ops.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

namespace fsdpinit {

namespace detail {

/// A key that libtorch keeps for tests and no backend uses: while a thread includes it, calls come by here first.
inline constexpr c10::DispatchKey skip_init_key = c10::DispatchKey::TESTING_ONLY_GenericMode;

/// A kernel that leaves the tensor as it is, of the operator's own signature: its last argument differs between versions.
template <class Schema>
struct leaves_alone;
template <class... Arguments>
struct leaves_alone<at::Tensor&(at::Tensor&, Arguments...)> {
  static at::Tensor& call(at::Tensor& self, Arguments... /*arguments*/) { return self; }
};

/// Tells libtorch's dispatcher, which is one for the process, once.
inline void register_skip_init() {
  static const auto registered = [] {
    std::vector<std::unique_ptr<torch::Library>> made;
    auto& fallback = made.emplace_back(
        std::make_unique<torch::Library>(torch::Library::IMPL, "_", skip_init_key, __FILE__, __LINE__));
    fallback->fallback(torch::CppFunction::makeFallthrough());
    auto& kernels = made.emplace_back(
        std::make_unique<torch::Library>(torch::Library::IMPL, "aten", skip_init_key, __FILE__, __LINE__));
    kernels->impl("uniform_", &leaves_alone<at::_ops::uniform_::schema>::call);
    kernels->impl("normal_", &leaves_alone<at::_ops::normal_::schema>::call);
    return made;
  }();
  static_cast<void>(registered);
}

}  // namespace detail

/// While it lives, modules that this thread constructs do not draw their initial weights: `uniform_` and `normal_`, which all of
/// torch::nn::init end in, return at once. Parameters are then memory that was asked for and never touched, which takes no pages: a
/// module of 2 GiB is constructed in a few milliseconds. Buffers, and what constructors compute otherwise, hold their real values.
///
///     std::optional<fsdpinit::skip_init> skipping(std::in_place);
///     auto net = MyModel(config);
///     skipping.reset();
///
/// What a checkpoint lacks holds whatever the memory holds: initialise with `strict`, or with values for what is missing. The random
/// number generator does not advance; seed it afterwards. Large `zeros_`, `fill_` or `mul_` in a constructor do touch memory.
///
/// The only process-wide thing in this library: it registers kernels with libtorch's dispatcher, on first use, for a key that only
/// threads with a `skip_init` include.
class skip_init {
 public:
  skip_init() : included_((detail::register_skip_init(), detail::skip_init_key)) {}
  skip_init(const skip_init&) = delete;
  skip_init& operator=(const skip_init&) = delete;
  ~skip_init() = default;

 private:
  c10::impl::IncludeDispatchKeyGuard included_;
};

}  // namespace fsdpinit
