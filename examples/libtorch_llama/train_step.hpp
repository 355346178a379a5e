// One step of training a sharded module of libtorch.
#pragma once

#include <fsdpinit/adapters/torch_module.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include <ATen/core/ivalue.h>  // before the rest: without it libtorch 1.13 does not compile as C++20
#include <torch/torch.h>

/// Whole parameters for the forward and the backward pass, their gradients averaged over all ranks into shards, and a step on those.
/// Collective. Returns this rank's loss.
///
/// All units are whole at once here. A framework would make a layer whole when its turn comes, and take it apart right afterwards.
template <class Units, class Loss>
double train_step(fsdpinit::torch_module& module, Units& units, torch::optim::Optimizer& optimizer, Loss&& loss_of) {
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    units.unshard(unit);
  }
  double value = 0;
  {
    const torch::Tensor loss = loss_of();
    loss.backward();
    value = loss.template item<double>();
  }  // its graph goes with it: the parameters are about to change their shapes
  std::vector<typename Units::gradients> reduced;
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    std::vector<torch::Tensor> whole;  // until they are reduced
    reduced.push_back(units.reduce_scatter_gradients(
        unit,
        [&](std::string_view fqn) {
          const torch::Tensor& grad = whole.emplace_back(module.tensor(fqn).grad().to(torch::kFloat).contiguous());
          return std::span<const float>(grad.template data_ptr<float>(), static_cast<std::size_t>(grad.numel()));
        },
        fsdpinit::gradient_reduction::mean));
    units.reshard(unit);
  }
  for (const auto& unit : reduced) {
    for (const fsdpinit::shard_gradient& gradient : unit) {
      const torch::Tensor& shard = module.tensor(gradient.fqn);
      shard.mutable_grad() = torch::from_blob(gradient.values.data(), shard.sizes()).to(shard.scalar_type());
    }
  }
  optimizer.step();
  for (const torch::Tensor& shard : module.parameters()) {
    shard.mutable_grad().reset();
  }
  return value;
}
