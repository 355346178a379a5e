#include "chosen_model.hpp"
#include "cluster_file.hpp"
#include "commands.hpp"
#include "opener.hpp"
#include "planning.hpp"
#include "published_models.hpp"
#include "terminal.hpp"
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/cost/cluster_cost.hpp>
#include <fsdpinit/cost/rank_classes.hpp>
#include <fsdpinit/engine/step_reader.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/observe/report_json.hpp>
#include <fsdpinit/observe/text_table.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

namespace fsdpinit::tool {
namespace {

/// Is CHECKPOINT no path, but the name of a published model?
bool names_published_model(const plan_request& how) {
  return std::any_of(published_models.begin(), published_models.end(),
                     [&](const published_model& each) { return each.name == how.checkpoint; }) &&
         !std::filesystem::exists(how.checkpoint);
}

/// What the files of a published model hold, without them. In the model's order: where files have another, a rank may need a
/// bucket more or less of staging.
state_dict_contents published_contents(const plan_request& how) {
  const published_model model = chosen_model(how.model, how.layers, how.experts);
  const std::vector<synthetic_tensor> published = tensors_of(model, model.type, true);
  state_dict_contents contents;
  for (synthetic_tensor& tensor : cast_tensors_of(how, model)) {
    contents.stored.push_back({.dtype = published[contents.stored.size()].descriptor.dtype});
    contents.tensors.push_back(std::move(tensor.descriptor));
  }
  return contents;
}

/// Ranks are those of the cluster; only how they are divided into replicas can be chosen.
void fit_to(const cluster& on, plan_request& how) {
  if (how.shards == 0) {
    how.shards = on.ranks() / how.replicas;
  }
  if (how.ranks() != on.ranks()) {
    throw usage_error(
        fmt::format("--cluster: {} nodes of {} ranks are not {} replicas of {} shards; leave --shards out, and "
                    "use a number of replicas that divides {}",
                    on.nodes, on.ranks_per_node, how.replicas, how.shards, on.ranks()));
  }
}

template <class Value>
std::string over(std::span<const prediction> ranks, Value&& value) {
  std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t most = 0;
  for (const prediction& each : ranks) {
    least = std::min(least, value(each));
    most = std::max(most, value(each));
  }
  return bytes_text(least, most);
}

template <class Value>
std::string sum(std::span<const prediction> ranks, Value&& value) {
  std::uint64_t total = 0;
  for (const prediction& each : ranks) {
    total += value(each);
  }
  return bytes_text(total);
}

void print_text(const plan_request& how, const plan& made, std::span<const prediction> ranks) {
  const fsdpinit::transport transport = made.options.transport;
  const std::uint64_t model = model_bytes(made);
  const std::string mesh_text =
      how.replicas == 1 ? "" : fmt::format(" ({} replicas of {})", how.replicas, counted(how.shards, "shard"));
  const std::string units =
      fmt::format("{} ({})", counted(made.slabs.size(), "unit"), made.slabs.size() == 1 ? "slab" : "slabs");
  const std::string buckets = transport == transport::none
                                  ? ""
                                  : fmt::format(", {} of {}, {} in flight", counted(made.schedule.size(), "bucket"),
                                                bytes_text(how.bucket_bytes), made.options.buckets_in_flight);
  fmt::print("{}: {}, {}\n{}{}{}, {}{}, {}{}\n\n", printable(how.checkpoint), counted(made.tensors.size(), "tensor"),
             bytes_text(model), how.policy_name, transport == transport::none ? "" : ", ",
             transport == transport::none ? "" : name(transport), counted(ranks.size(), "rank"), mesh_text, units,
             buckets);

  const auto shard = [](const prediction& each) { return each.shard_bytes; };
  const auto slab = [](const prediction& each) { return each.slab_bytes; };
  const auto staging = [](const prediction& each) { return each.staging_bytes(); };
  const auto peak = [](const prediction& each) { return each.peak_bytes(); };
  const auto read = [](const prediction& each) { return each.bytes_read; };
  const auto sent = [](const prediction& each) { return each.bytes_sent; };
  const auto received = [](const prediction& each) { return each.bytes_received; };
  const auto key = [&](const prediction& each) {
    return std::vector{shard(each), slab(each), staging(each), read(each), sent(each), received(each)};
  };
  const auto alike = [&](std::size_t a, std::size_t b) { return key(ranks[a]) == key(ranks[b]); };
  text_table table({"rank", "shard", "slabs", "staging", "peak", "read", "sent", "received"});
  for (const rank_range& row : rows_of_ranks(ranks.size(), alike)) {
    const auto these = ranks.subspan(row.first, row.last - row.first + 1);
    table.add({to_string(row), over(these, shard), over(these, slab), over(these, staging), over(these, peak),
               over(these, read), over(these, sent), over(these, received)});
  }
  table.add({"all", sum(ranks, shard), sum(ranks, slab), sum(ranks, staging), sum(ranks, peak), sum(ranks, read),
             sum(ranks, sent), sum(ranks, received)});
  fmt::print("{}", table.text(terminal_columns(STDOUT_FILENO)));
}

void print_json(const plan_request& how, const plan& made, std::span<const prediction> predictions) {
  using nlohmann::ordered_json;
  ordered_json ranks = ordered_json::array();
  for (std::size_t rank = 0; rank < predictions.size(); ++rank) {
    const prediction& each = predictions[rank];
    ranks.push_back({{"rank", rank},
                     {"shard_bytes", each.shard_bytes},
                     {"slab_bytes", each.slab_bytes},
                     {"staging_bytes", each.staging_bytes()},
                     {"predicted_peak_bytes", each.peak_bytes()},
                     {"bytes_read", each.bytes_read},
                     {"bytes_sent", each.bytes_sent},
                     {"bytes_received", each.bytes_received}});
  }
  fmt::print("{}", json_text({{"format", "fsdpinit.plan"},
                              {"format_version", 1},
                              {"checkpoint", how.checkpoint},
                              {"policy", how.policy_name},
                              {"transport", name(made.options.transport)},
                              {"shards", how.shards},
                              {"replicas", how.replicas},
                              {"bucket_bytes", how.bucket_bytes},
                              {"buckets_in_flight", made.options.buckets_in_flight},
                              {"tensors", made.tensors.size()},
                              {"units", made.slabs.size()},
                              {"buckets", made.schedule.size()},
                              {"model_bytes", model_bytes(made)},
                              {"ranks", std::move(ranks)}}));
}

}  // namespace

plan_options options_of(const sharding_request& how) {
  const options defaults;
  return {.ranks = {.shards = how.shards, .replicas = how.replicas},
          .source_ranks = {.source_rank = how.source_rank},
          .transport = how.chosen_policy().transport,
          .bucket_bytes = how.bucket_bytes,
          .buckets_in_flight = defaults.buckets_in_flight,
          .verify = how.verify};
}

named_plan named_plan_of(const sharding_request& how, const planned_contents& contents, const plan_options& options) {
  dynamic_module module = module_of(how, contents.all.tensors);
  const module_view view = view_of(module);
  unmatched_names unmatched;
  const std::vector<load_item> items = match(view, contents.all, how.strict ? nullptr : &unmatched);
  std::vector<tensor_request> requests = requests_of(view, items, contents.all);
  if (!how.loads_first()) {  // where memory is read
    detail::add_means_of_reading(requests, items, contents.source, 1);
  }
  named_plan out{.made = make_plan(requests, options), .names = {}};
  for (const planned_tensor& tensor : out.made.tensors) {
    out.names.emplace_back(requests[tensor.request].fqn);
  }
  return out;
}

plan plan_of(const sharding_request& how, const planned_contents& contents, const plan_options& options) {
  return named_plan_of(how, contents, options).made;
}

std::uint64_t model_bytes(const plan& made) {
  std::uint64_t bytes = 0;
  for (const planned_tensor& tensor : made.tensors) {
    bytes += tensor.kept_bytes(tensor.partition.bytes());
  }
  return bytes;
}

void require_fitting_module(const sharding_request& how) {
  if (how.model.empty() && (how.layers || how.experts || !how.strict)) {
    throw usage_error(
        fmt::format("--{}: means something only with --model; without, the module is the checkpoint's own list",
                    !how.strict  ? "non-strict"
                    : how.layers ? "layers"
                                 : "experts"));
  }
  if (!how.model.empty()) {
    static_cast<void>(chosen_model(how.model, how.layers, how.experts));
  }
}

void require_fitting(const sharding_request& how, std::size_t most_ranks) {
  require_fitting_module(how);
  if (how.loads_first() && (how.transport == transport::own_read || how.transport == transport::automatic)) {
    throw usage_error(
        fmt::format("--transport: {} is not for cpu-ram-efficient-loading, where the weights are in the memory of "
                    "one rank; use scatter or broadcast",
                    name(how.transport)));
  }
  if (how.loads_first() && how.verify == verification::reread) {
    throw usage_error(
        "--verify: reread is not for cpu-ram-efficient-loading, whose weights come from memory; use transfer");
  }
  if (how.bucket_bytes < how.shards) {
    throw usage_error(fmt::format("--bucket-bytes: {} is too small for {} shards; use at least {}", how.bucket_bytes,
                                  how.shards, how.shards));
  }
  if (how.loads_first() && !how.strict) {
    throw usage_error(
        "--non-strict: not for cpu-ram-efficient-loading, which loads the whole model first; leave it out");
  }
  if (how.ranks() > most_ranks) {
    throw usage_error(
        fmt::format("--replicas: {} replicas of {} shards are {} ranks; at most {} are possible, so use fewer",
                    how.replicas, how.shards, how.ranks(), most_ranks));
  }
  if (how.source_rank >= how.ranks()) {
    throw usage_error(
        fmt::format("--source-rank: {} is none of {} ranks; they are counted from 0", how.source_rank, how.ranks()));
  }
}

void run_plan(const plan_request& asked) {
  plan_request how = asked;
  const bool published = names_published_model(how);
  if (published && (!how.renames.empty() || !how.map.empty() || !how.model.empty())) {
    throw usage_error(
        fmt::format("--{}: not where CHECKPOINT is a published model ({}), which is its own module; leave it out",
                    !how.renames.empty() ? "rename"
                    : !how.map.empty()   ? "map"
                                         : "model",
                    how.checkpoint));
  }
  if (published) {
    how.model = how.checkpoint;
  }
  std::optional<cluster> on;
  if (!how.cluster.empty()) {
    on = read_cluster(how.cluster);
    fit_to(*on, how);
  }
  require_fitting(how, most_planned_ranks);
  if (how.explained_rank.value_or(0) >= how.ranks()) {
    throw usage_error(
        fmt::format("--explain: {} is none of {} ranks; they are counted from 0", *how.explained_rank, how.ranks()));
  }
  std::optional<decltype(opener_of(how)())> source;
  planned_contents contents;
  if (published) {
    contents.all = published_contents(how);
  } else {
    contents.source.emplace(source.emplace(opener_of(how)()));
    contents.all = contents.source->contents();
  }
  if (on) {
    print_cluster_plan(how, *on, contents);
    return;
  }
  if (how.explained_rank) {
    print_program(how, named_plan_of(how, contents, options_of(how)));
    return;
  }
  const plan made = plan_of(how, contents, options_of(how));
  const std::vector<prediction> ranks = predict_every_rank(made);
  how.json ? print_json(how, made, ranks) : print_text(how, made, ranks);
}

}  // namespace fsdpinit::tool
