#pragma once

#include <fsdpinit/adapters/torch_first.hpp>
#include <fsdpinit/adapters/torch_module.hpp>
#include <fsdpinit/adapters/torch_slot.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/shape.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <c10/util/StringUtil.h>
#include <torch/optim/optimizer.h>

namespace fsdpinit {

/// A `torch::optim::Optimizer` that was made before the module is sharded, as a ShardableOptimizer. Its tensors are the module's
/// handles, and so see the shards in any case; bound again it holds each tied tensor once, where `named_parameters()` gave it two.
class torch_optimizer {
 public:
  /// Local. Both outlive it, the module's names while it is used. \throws error{invalid_argument} for a parameter that is not the
  /// module's.
  torch_optimizer(torch::optim::Optimizer& optimizer, const torch_module& module) : optimizer_(optimizer) {
    for (const auto& group : optimizer.param_groups()) {
      std::vector<std::string>& names = names_.emplace_back();
      for (const at::Tensor& parameter : group.params()) {
        const std::string_view fqn = module.fqn_of(parameter);
        if (fqn.empty()) {
          throw error(
              errc::invalid_argument, "optimizer",
              concat("group ", names_.size() - 1, " has a parameter of ", c10::str(parameter.sizes()),
                     " that is not the module's; make the optimizer of the parameters of the module that is sharded"));
        }
        names.emplace_back(fqn);
      }
    }
  }

  [[nodiscard]] const std::vector<std::vector<std::string>>& parameter_groups() const noexcept { return names_; }
  /// One that has stepped: its moments are of whole tensors.
  [[nodiscard]] bool has_state() const { return !optimizer_.state().empty(); }
  void drop_references() noexcept {
    for (auto& group : optimizer_.param_groups()) {
      group.params().clear();  // keeps the capacity that `rebind` relies on
    }
  }
  void rebind(std::size_t group, std::string_view /*fqn*/, torch_slot& slot) noexcept {
    optimizer_.param_groups()[group].params().push_back(slot.tensor());
  }

 private:
  torch::optim::Optimizer& optimizer_;
  std::vector<std::vector<std::string>> names_;
};

}  // namespace fsdpinit
