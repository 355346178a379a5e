#include "index/random_recipe.hpp"
#include "init/random_case.hpp"
#include "support/fake_device_memory.hpp"
#include "support/one_file_source.hpp"
#include "support/test_checksum.hpp"
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::testing_support {
namespace {

/// Does the source rank load the whole model first? Where the host may not touch it, it is streamed under that name.
bool loads_first(const random_case& made) {
  return made.how.policy == policy_of<cpu_ram_efficient_loading<>> && !made.device;
}

/// The same tensors with their floats in `type`, where they are cast.
std::vector<reference_tensor> with_floats_as(dtype type, const std::vector<reference_tensor>& stored) {
  std::vector<reference_tensor> out;
  for (reference_tensor tensor : stored) {
    if (is_convertible(tensor.type, type) && !tensor.from_buffer()) {
      const std::uint64_t count = tensor.bytes.size() / (bits(tensor.type) / 8);
      std::vector<std::byte> converted(count * bits(type) / 8);
      convert_floats(tensor.type, tensor.bytes.data(), type, converted.data(), count);
      tensor.bytes = std::move(converted);
      tensor.type = type;
    }
    out.push_back(std::move(tensor));
  }
  return out;
}

/// Is it among what is made?
bool is_made(const random_case& made, std::string_view name) {
  return std::any_of(made.made.begin(), made.made.end(), [&](const auto& each) { return each.name == name; });
}

/// The parts, and behind them what is stored as it is.
in_memory_source source_of(const random_case& made, const reference_model& stored) {
  std::vector<in_memory_tensor> out;
  for (const stored_part& each : made.parts) {
    out.push_back({.descriptor = each.descriptor, .bytes = each.bytes});
  }
  for (const reference_tensor& tensor : stored.tensors()) {
    for (const std::string& name : tensor.stored_names()) {
      if (!is_made(made, name)) {
        out.push_back(
            {.descriptor = {.name = name, .dtype = tensor.type, .shape = tensor.extents}, .bytes = tensor.bytes});
      }
    }
  }
  return in_memory_source(std::move(out));
}

detail::conversion conversion_of(const random_case& made, const reference_model& stored) {
  const in_memory_source source = source_of(made, stored);
  std::vector<std::size_t> kept(source.tensors().size() - made.parts.size());
  std::iota(kept.begin(), kept.end(), made.parts.size());
  return {made.made, kept, source.tensors()};
}

/// What one rank did.
struct outcome {
  std::string faults;
  rank_report report;
};

template <class Source, class Space>
rank_report bring_up(const random_case& made, dynamic_module& module, Source source, threads_communicator& world,
                     Space& memory) {
  if constexpr (Space::host_accessible) {
    if (loads_first(made)) {
      load_pretrained(module, source, world, {.active = true, .source_rank = made.how.source_rank}, {},
                      {.memory = memory});
      return prepare(module, world, made.how, {.memory = memory});
    }
  }
  return initialize(module, source, world, made.how, {.memory = memory});
}

template <class Space>
outcome run_rank(const random_case& made, const reference_model& stored, const reference_model& wanted,
                 threads_communicator& world) {
  Space memory;
  dynamic_module module = wanted.module(memory, world.rank() == made.how.source_rank);
  const bool ignores = !made.how.ignored_prefixes.empty() && !loads_first(made);
  const auto marker = std::make_shared<std::byte>();
  if (ignores) {
    module.add_parameter("ignored.weight", dtype::u8, {5});
    module.get_parameter("ignored.weight").adopt({.shape = {5}, .offset = 0, .bytes = 5, .data = marker});
  }
  outcome got;
  const auto bring_up_from = [&](auto source) {
    got.report = made.cast ? bring_up(made, module, std::move(source) | cast(*made.cast), world, memory)
                           : bring_up(made, module, std::move(source), world, memory);
  };
  if (!made.parts.empty()) {
    bring_up_from(converted_source(one_file_source(source_of(made, stored)), conversion_of(made, stored)));
  } else if (made.in_file && !made.cast) {
    bring_up_from(one_file_source(stored.source()));
  } else {
    bring_up_from(stored.source());
  }
  const mesh grid{.shards = made.shards, .replicas = made.how.replicas};
  got.faults = wanted.faults_of(module, memory, grid.shards, grid.shard_of(world.rank()));
  if (ignores && module.get_parameter("ignored.weight").local().data != marker) {
    got.faults += "what was to be ignored is not as it was\n";
  }
  const auto require_predicted = [&](std::string_view what, std::uint64_t predicted, std::uint64_t done) {
    if (predicted != done) {
      got.faults += concat(what, ": ", done, " where ", predicted, " was predicted\n");
    }
  };
  const prediction& predicted = got.report.predicted;
  require_predicted("bytes read", predicted.bytes_read, got.report.bytes_read);
  require_predicted("bytes sent", predicted.bytes_sent, got.report.bytes_sent);
  require_predicted("bytes received", predicted.bytes_received, got.report.bytes_received);
  if (!loads_first(made)) {  // where the account also has the source's own copy
    require_predicted("peak", predicted.peak_bytes(), got.report.accounted_peak_bytes);
  }
  return got;
}

}  // namespace

std::string to_string(const random_case& made) {
  std::string out = concat(made.how.policy->name, " ", name(made.how.policy->transport), ", ", made.shards,
                           " shards x ", made.how.replicas, " replicas, source ", made.how.source_rank, ", buckets of ",
                           made.how.bucket_bytes, ", ", made.how.buckets_in_flight, " in flight, ",
                           made.device ? "device" : "host", made.in_file ? ", in a file" : "", ", verify ",
                           name(made.how.verify), made.cast ? concat(", cast to ", name(*made.cast)) : "",
                           made.how.ignored_prefixes.empty() ? "" : ", something ignored", "\n");
  for (const reference_tensor& tensor : made.stored) {
    out += concat("  ", name(tensor.role), " ", tensor.fqn, " ", name(tensor.type), " ", to_string(tensor.extents), " ",
                  to_string(tensor.how));
    for (const std::string& tied : tensor.tied) {
      out += concat(" tied to ", tied, tensor.stored_as.size() == 2 ? ", stored twice" : "");
    }
    out += "\n";
  }
  return out + made.made_as;
}

void make_of_parts(random_case& made, reference_tensor& tensor, std::function<std::uint64_t(std::uint64_t)> below) {
  const index_testing::dims extents(tensor.extents.begin(), tensor.extents.end());
  const bool is_small = std::all_of(extents.begin(), extents.end(), [](std::uint64_t each) { return each < 100; });
  if (tensor.from_buffer() || !is_small || index_testing::product_of(extents) > 2000 || tensor.type == dtype::boolean) {
    return;
  }
  index_testing::random_trees trees(tensor.type, std::move(below));
  const index_testing::random_tree tree = trees.tree_of(extents, 3);
  const std::size_t first = made.parts.size();
  detail::conversion::named_recipe recipe{.name = {}, .recipe = tree.made, .stored = {}};
  for (std::size_t i = 0; i < trees.stored.size(); ++i) {
    const std::string name = concat("part", first + i);
    made.parts.push_back(
        {{.name = name, .dtype = trees.stored_types[i], .shape = shape(trees.stored[i])},
         content_for(name, index_testing::product_of(trees.stored[i]) * bits(trees.stored_types[i]) / 8)});
    recipe.stored.push_back(first + i);
  }
  for (index_map::piece& each : recipe.recipe.pieces) {
    each.tensor += first;
  }
  const std::uint64_t size = bits(tensor.type) / 8;
  tensor.bytes.resize(tree.expected.elements.size() * size);
  for (std::uint64_t i = 0; i < tree.expected.elements.size(); ++i) {
    const index_testing::element_id& each = tree.expected.elements[i];
    if (each.tensor == index_testing::element_id::filled) {
      std::memcpy(tensor.bytes.data() + i * size, &each.at, size);
      continue;
    }
    const stored_part& part = made.parts[first + each.tensor];
    const dtype from = part.descriptor.dtype;
    convert_floats(from, part.bytes.data() + each.at * (bits(from) / 8), tensor.type, tensor.bytes.data() + i * size,
                   1);
  }
  for (const std::string& name : tensor.stored_names()) {
    made.made.push_back(recipe);
    made.made.back().name = name;
    made.made_as += concat("  ", name, " = ", tree.text, "\n");
  }
}

std::string faults_of(const random_case& made) {
  random_case how = made;
  how.how.checksum = &test_checksum;
  const reference_model stored(how.stored);
  const reference_model wanted =
      how.cast ? reference_model(with_floats_as(*how.cast, stored.tensors())) : reference_model(stored.tensors());
  const threads_world ranks(how.ranks());
  std::vector<outcome> got(how.ranks());
  const auto errors = testing::errors_of_ranks(ranks, [&](std::size_t rank, threads_communicator& world) {
    got[rank] = how.device ? run_rank<fake_device_memory>(how, stored, wanted, world)
                           : run_rank<host_memory>(how, stored, wanted, world);
  });
  std::string faults;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  for (std::size_t rank = 0; rank < how.ranks(); ++rank) {
    if (errors[rank]) {
      faults += concat("rank ", rank, ": ", errors[rank]->what(), "\n");
    } else if (!got[rank].faults.empty()) {
      faults += concat("rank ", rank, ": ", got[rank].faults);
    }
    sent += got[rank].report.bytes_sent;
    received += got[rank].report.bytes_received;
  }
  if (sent != received) {
    faults += concat(sent, " bytes were sent, ", received, " received\n");
  }
  return faults;
}

}  // namespace fsdpinit::testing_support
