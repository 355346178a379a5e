#include "libtorch_llama/llama.hpp"
#include "libtorch_llama/train_step.hpp"
#include "support/temp_dir.hpp"
#include "torch/launched_ranks.hpp"
#include "torch/models.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/init/pretrained.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <fsdpinit/sources/safetensors_writer.hpp>
#include <fsdpinit/torch.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// Training on shards, whichever way they came to be, gives the numbers of training where every rank has loaded everything by means
/// of libtorch alone: bit for bit.

namespace parity_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;

using Parity = launched_ranks;
constexpr launch& self = launched_ranks::self;
constexpr c10::intrusive_ptr<c10d::ProcessGroupGloo>& group = launched_ranks::group;
constexpr int steps = 10;

struct outcome {
  std::vector<double> losses{};
  state_dict values{};  // whole parameters, and persistent buffers
};

/// The batch of this rank in a step.
torch::Tensor batch_of(int step, const std::function<torch::Tensor()>& draw) {
  torch::manual_seed(static_cast<std::uint64_t>(step) * 100 + static_cast<std::uint64_t>(self.rank));
  return draw();
}

/// A model to be trained: how it is made, drawn a batch for, and what is minimised.
template <class Net>
struct experiment {
  std::function<Net()> make;
  std::function<torch::Tensor()> draw;
  std::function<torch::Tensor(Net&, const torch::Tensor&)> loss;
};

/// Every rank holds everything, and averages gradients in the order of ranks.
template <class Net>
outcome train_whole(const experiment<Net>& what, const state_dict& values) {
  Net net = what.make();
  {
    const torch::NoGradGuard guard;
    for (auto& item : net->named_parameters()) {
      const auto at = values.find(item.key());
      if (at != values.end()) {  // else it is tied to one that is there
        item.value().copy_(at->second);
      }
    }
    for (auto& item : net->named_buffers()) {
      const auto at = values.find(item.key());
      if (at != values.end()) {
        item.value().copy_(at->second);
      }
    }
  }
  std::vector<torch::Tensor> parameters;
  for (const torch::Tensor& each : net->parameters()) {
    bool seen = false;
    for (const torch::Tensor& other : parameters) {
      seen = seen || other.is_same(each);
    }
    if (!seen) {
      parameters.push_back(each);
    }
  }
  torch::optim::AdamW adamw(parameters, torch::optim::AdamWOptions(1e-2));
  c10d_communicator ranks(*group);
  outcome out;
  for (int step = 0; step < steps; ++step) {
    adamw.zero_grad();
    const torch::Tensor loss = what.loss(net, batch_of(step, what.draw));
    loss.backward();
    out.losses.push_back(loss.item<double>());
    for (const torch::Tensor& parameter : parameters) {
      const torch::Tensor own = parameter.grad().contiguous();
      const torch::Tensor all = torch::empty({self.size, own.numel()});
      ranks.all_gather({static_cast<const std::byte*>(own.data_ptr()), own.nbytes()},
                       {static_cast<std::byte*>(all.data_ptr()), all.nbytes()}, {}, deadline::never());
      torch::Tensor sum = all[0].clone();
      for (int rank = 1; rank < self.size; ++rank) {
        sum += all[rank];
      }
      parameter.mutable_grad() = (sum / static_cast<float>(self.size)).view(parameter.sizes()).clone();
    }
    adamw.step();
  }
  out.values = values_of(*net);
  return out;
}

/// `load(module, ranks, memory, optimizer)` brings it up in shards. What `make` left in it is other on each rank.
template <class Net, class Load>
outcome train_sharded(const experiment<Net>& what, bool optimizer_first, Load&& load) {
  torch::manual_seed(1000 + static_cast<std::uint64_t>(self.rank));
  Net net = what.make();
  torch_module module(net);
  c10d_communicator ranks(*group);
  host_memory memory;
  const auto make_optimizer = [&] {
    return std::make_unique<torch::optim::AdamW>(module.parameters(), torch::optim::AdamWOptions(1e-2));
  };
  std::unique_ptr<torch::optim::AdamW> adamw;
  if (optimizer_first) {
    adamw = make_optimizer();
    torch_optimizer bound(*adamw, module);
    load(module, ranks, memory, bound);
  } else {
    no_optimizer none;
    load(module, ranks, memory, none);
    adamw = make_optimizer();
  }
  sharded_units units(module, ranks, {}, memory);
  outcome out;
  for (int step = 0; step < steps; ++step) {
    const torch::Tensor batch = batch_of(step, what.draw);
    out.losses.push_back(train_step(module, units, *adamw, [&] { return what.loss(net, batch); }));
  }
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    units.unshard(unit);
  }
  out.values = values_of(*net);
  return out;
}

void expect_equal(const outcome& got, const outcome& wanted) {
  EXPECT_EQ(got.losses, wanted.losses);
  ASSERT_EQ(got.values.size(), wanted.values.size());
  for (const auto& [fqn, values] : wanted.values) {
    EXPECT_TRUE(torch::equal(got.values.at(fqn), values)) << fqn;
  }
}

/// A checkpoint in a folder that rank 0 makes and all ranks read. Collective.
class shared_checkpoint {
 public:
  explicit shared_checkpoint(const state_dict& values) : ranks_(*group) {
    std::vector<std::byte> name(256);
    if (self.rank == 0) {
      folder_ = std::make_unique<temp_dir>();
      const std::string path = *folder_ / "model.safetensors";
      write(path, values);
      std::memcpy(name.data(), path.c_str(), path.size() + 1);
    }
    ranks_.broadcast(name, 0);
    path_ = reinterpret_cast<const char*>(name.data());
  }
  ~shared_checkpoint() {
    std::byte nothing{};
    for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {  // nobody reads it any more
      ranks_.broadcast({&nothing, 1}, rank);
    }
  }
  [[nodiscard]] checkpoint source() const { return {path_}; }

 private:
  static void write(const std::string& path, const state_dict& values) {
    const in_memory_source source = source_of(values);
    const safetensors_layout layout = lay_out_safetensors(source.tensors());
    std::ofstream file(path, std::ios::binary);
    file << layout.header;
    for (const auto& [fqn, tensor] : values) {
      file.write(static_cast<const char*>(tensor.data_ptr()), static_cast<std::streamsize>(tensor.nbytes()));
    }
    ASSERT_TRUE(file.flush());
  }
  c10d_communicator<c10d::ProcessGroupGloo> ranks_;
  std::unique_ptr<temp_dir> folder_;
  std::string path_;
};

template <class Net>
void expect_parity(const experiment<Net>& what) {
  torch::manual_seed(7);
  Net original = what.make();
  state_dict values = values_of(*original);
  values.erase("lm_head.weight");  // tied checkpoints have one of the names
  const shared_checkpoint stored(values);
  const outcome wanted = train_whole(what, values);

  const auto expect_from = [&](const policy& chosen) {
    SCOPED_TRACE(concat(chosen.name, " ", name(chosen.transport)));
    for (const bool optimizer_first : {false, true}) {
      expect_equal(train_sharded(what, optimizer_first,
                                 [&](auto& module, auto& ranks, auto& memory, auto& optimizer) {
                                   initialize(module, stored.source(), ranks, {.policy = chosen, .bucket_bytes = 4096},
                                              {.memory = memory, .optimizer = {module, optimizer}});
                                 }),
                   wanted);
    }
  };
  expect_from(policy_of<native_sharding<transport::scatter>>);
  expect_from(policy_of<native_sharding<transport::broadcast>>);
  expect_from(policy_of<native_sharding<transport::own_read>>);
  expect_from(policy_of<native_sharding<transport::automatic>>);
  expect_from(policy_of<every_rank_loads>);
  const auto expect_from_ram = [&](const policy& chosen) {
    SCOPED_TRACE(concat(chosen.name, " ", name(chosen.transport)));
    expect_equal(train_sharded(what, true,
                               [&](auto& module, auto& ranks, auto& memory, auto& optimizer) {
                                 load_pretrained(module, stored.source(), ranks, {}, {}, {.memory = memory});
                                 prepare(module, ranks, {.policy = chosen, .bucket_bytes = 4096},
                                         {.memory = memory, .optimizer = {module, optimizer}});
                               }),
                 wanted);
  };
  expect_from_ram(policy_of<cpu_ram_efficient_loading<transport::scatter>>);
  expect_from_ram(policy_of<cpu_ram_efficient_loading<transport::broadcast>>);
}

const llama_config small{.vocab_size = 96,
                         .hidden_size = 32,
                         .layers = 3,
                         .heads = 4,
                         .kv_heads = 2,
                         .head_dim = 8,
                         .intermediate_size = 48};

experiment<Llama> llama_of(const llama_config& config) {
  return {.make = [=] { return Llama(config); },
          .draw =
              [=] {
                return torch::randint(config.vocab_size, {2, 9}, torch::kLong);
              },
          .loss = [](Llama& net, const torch::Tensor& tokens) { return net->loss(tokens); }};
}

TEST_F(Parity, ATiedLlamaTrainsAlikeFromEveryPolicyAndTransport) { expect_parity(llama_of(small)); }

TEST_F(Parity, AnUntiedLlamaWithoutNormsOfHeadsDoesToo) {
  llama_config config = small;
  config.tied = false;
  config.norms_heads = false;
  torch::manual_seed(7);
  experiment<Llama> what = llama_of(config);
  Llama original = what.make();
  const state_dict values = values_of(*original);
  const shared_checkpoint stored(values);
  expect_equal(
      train_sharded(
          what, true,
          [&](auto& module, auto& ranks, auto& memory, auto& optimizer) {
            initialize(module, stored.source(), ranks, {}, {.memory = memory, .optimizer = {module, optimizer}});
          }),
      train_whole(what, values));
}

/// Convolution, batch norm with running statistics, an LSTM.
struct MixedImpl : torch::nn::Module {
  MixedImpl() {
    convolution = register_module("convolution", torch::nn::Conv1d(torch::nn::Conv1dOptions(3, 6, 3).padding(1)));
    norm = register_module("norm", torch::nn::BatchNorm1d(6));
    recurrent =
        register_module("recurrent", torch::nn::LSTM(torch::nn::LSTMOptions(6, 5).num_layers(2).batch_first(true)));
    head = register_module("head", torch::nn::Linear(5, 2));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor filtered = torch::relu(norm(convolution(x)));
    return head(std::get<0>(recurrent(filtered.transpose(1, 2))));
  }
  torch::nn::Conv1d convolution{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
  torch::nn::LSTM recurrent{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Mixed);

TEST_F(Parity, ConvolutionBatchNormAndLstmTrainAlikeAndRunningStatisticsPersist) {
  expect_parity(
      experiment<Mixed>{.make = [] { return Mixed(); },
                        .draw =
                            [] {
                              return torch::randn({4, 3, 7});
                            },
                        .loss = [](Mixed& net, const torch::Tensor& x) { return net->forward(x).pow(2).mean(); }});
}

TEST_F(Parity, LogitsAndRotaryBufferAreThoseOfPlainLibtorch) {
  torch::manual_seed(7);
  Llama plain(small);
  state_dict values = values_of(*plain);
  values.erase("lm_head.weight");
  const shared_checkpoint stored(values);
  Llama net{nullptr};
  {
    const skip_init skipping;
    net = Llama(small);
  }
  if (self.rank != 0) {
    net->model->rotary_emb->inv_freq.fill_(-1);  // only the source rank's counts
  }
  torch_module module(net);
  c10d_communicator ranks(*group);
  initialize(module, stored.source(), ranks);
  EXPECT_TRUE(torch::equal(net->model->rotary_emb->inv_freq, plain->model->rotary_emb->inv_freq));
  sharded_units units(module, ranks);
  for (std::size_t unit = 0; unit < units.size(); ++unit) {
    units.unshard(unit);
  }
  const torch::NoGradGuard guard;
  const torch::Tensor tokens = torch::arange(20).view({2, 10});
  EXPECT_TRUE(torch::equal(net->forward(tokens), plain->forward(tokens)));
}

}  // namespace
}  // namespace parity_test
