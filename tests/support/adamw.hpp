#pragma once

#include <fsdpinit/modules/parameter.hpp>

#include <cmath>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::testing_support {

/// AdamW over float32 shards in host memory, as a framework has it: groups of owning references to the parameters' storage,
/// and moments that are made at the first step.
class adamw {
 public:
  struct group {
    std::vector<std::string> names{};  ///< empty, of the only group: all trained parameters
    float rate = 0.01F;
    float decay = 0.1F;
  };

  /// \param parameters  how many a group without names may come to hold.
  explicit adamw(std::vector<group> groups, std::size_t parameters = 0) {
    for (group& each : groups) {
      held_.emplace_back().reserve(each.names.empty() ? parameters : each.names.size());
      groups_.push_back(std::move(each));
    }
  }

  [[nodiscard]] std::vector<std::vector<std::string>> parameter_groups() const {
    std::vector<std::vector<std::string>> out;
    for (const group& each : groups_) {
      out.push_back(each.names);
    }
    return out;
  }
  [[nodiscard]] bool has_state() const noexcept { return steps_ != 0; }
  void drop_references() noexcept {
    for (std::vector<held>& each : held_) {
      each.clear();  // keeps its capacity, which rebind() relies on
    }
  }
  void rebind(std::size_t at, std::string_view /*fqn*/, parameter& slot) noexcept {
    held_[at].push_back({.slot = &slot, .storage = slot.local().data});
  }

  /// One step. `gradient(parameter)` has as many elements as its shard.
  template <class Gradient>
  void step(Gradient&& gradient) {
    ++steps_;
    const float correction1 = 1.0F - std::pow(beta1, static_cast<float>(steps_));
    const float correction2 = 1.0F - std::pow(beta2, static_cast<float>(steps_));
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      for (held& each : held_[g]) {
        const std::span<const float> gradients = gradient(*each.slot);
        each.first.resize(gradients.size());
        each.second.resize(gradients.size());
        auto* const values = reinterpret_cast<float*>(each.storage.get());
        for (std::size_t i = 0; i < gradients.size(); ++i) {
          each.first[i] = beta1 * each.first[i] + (1.0F - beta1) * gradients[i];
          each.second[i] = beta2 * each.second[i] + (1.0F - beta2) * gradients[i] * gradients[i];
          values[i] -= groups_[g].rate * groups_[g].decay * values[i];
          values[i] -=
              groups_[g].rate * (each.first[i] / correction1) / (std::sqrt(each.second[i] / correction2) + epsilon);
        }
      }
    }
  }

  /// What it would update for that parameter; nullptr: nothing.
  [[nodiscard]] const std::byte* address_of(const parameter& slot) const noexcept {
    for (const std::vector<held>& each : held_) {
      for (const held& one : each) {
        if (one.slot == &slot) {
          return one.storage.get();
        }
      }
    }
    return nullptr;
  }
  /// How many parameters each group holds.
  [[nodiscard]] std::vector<std::size_t> held_in_groups() const {
    std::vector<std::size_t> out;
    for (const std::vector<held>& each : held_) {
      out.push_back(each.size());
    }
    return out;
  }

 private:
  struct held {
    const parameter* slot = nullptr;
    std::shared_ptr<std::byte> storage{};
    std::vector<float> first{};
    std::vector<float> second{};
  };
  static constexpr float beta1 = 0.9F;
  static constexpr float beta2 = 0.95F;
  static constexpr float epsilon = 1e-8F;

  std::vector<group> groups_;
  std::vector<std::vector<held>> held_;
  int steps_ = 0;
};

}  // namespace fsdpinit::testing_support
