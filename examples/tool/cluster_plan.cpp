#include "planning.hpp"
#include "terminal.hpp"
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/cost/cluster_cost.hpp>
#include <fsdpinit/cost/cluster_simulation.hpp>
#include <fsdpinit/cost/rank_classes.hpp>
#include <fsdpinit/observe/report_json.hpp>
#include <fsdpinit/observe/text_table.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unistd.h>

namespace fsdpinit::tool {
namespace {

/// A way to initialise.
struct way {
  std::string_view name;
  fsdpinit::transport transport = fsdpinit::transport::scatter;
  bool reads_on_every_node = false;  ///< so that each of them needs the checkpoint
  bool source_per_node = false;
};

constexpr std::array<way, 5> ways{{
    {.name = "broadcast", .transport = transport::broadcast},
    {.name = "scatter"},
    {.name = "scatter, a source per node", .reads_on_every_node = true, .source_per_node = true},
    {.name = "own-read", .transport = transport::own_read, .reads_on_every_node = true},
    {.name = "every-rank-loads", .transport = transport::none, .reads_on_every_node = true},
}};

struct way_cost {
  fsdpinit::tool::way way;
  cluster_cost cost;
  std::optional<simulated_cost> simulated{};
};

/// The lowest rank of each node for its node, but in its own node the source rank: `source_ranks::per_node`.
std::vector<std::size_t> source_ranks_per_node(const cluster& on, std::size_t source_rank) {
  std::vector<std::size_t> sources;
  for (std::size_t rank = 0; rank < on.ranks(); ++rank) {
    const std::size_t node = on.node_of(rank);
    sources.push_back(node == on.node_of(source_rank) ? source_rank : node * on.ranks_per_node);
  }
  return sources;
}

/// Three digits, and no powers of ten.
std::string seconds_text(double seconds) {
  return seconds < 99.9 ? fmt::format("{:#.3g}", seconds) : fmt::format("{:.0f}", seconds);
}

/// As much slower as this is not worth a word.
constexpr double near = 1.05;

/// What `other` needs less of than `best`, in words; empty if nothing.
std::string savings(const way_cost& other, const way_cost& best) {
  std::string out;
  const auto add = [&](const std::string& what) { out += fmt::format("{}{}", out.empty() ? "" : ", ", what); };
  const auto compare = [&](std::uint64_t needed, std::uint64_t instead_of, std::string_view what) {
    if (needed < instead_of) {
      add(fmt::format("{} {} in place of {}", what, bytes_text(needed), bytes_text(instead_of)));
    }
  };
  if (!other.way.reads_on_every_node && best.way.reads_on_every_node) {
    add("the checkpoint on one node only");
  }
  compare(other.cost.storage_bytes, best.cost.storage_bytes, "storage");
  compare(other.cost.nic_bytes, best.cost.nic_bytes, "NIC");
  compare(other.cost.host_peak_bytes, best.cost.host_peak_bytes, "host memory");
  return out;
}

std::string recommendation(std::span<const way_cost> all) {
  const way_cost& best = *std::min_element(
      all.begin(), all.end(), [](const way_cost& a, const way_cost& b) { return a.cost.seconds < b.cost.seconds; });
  std::string out = fmt::format("recommended: {}, the fastest at {} s, bound by {}", best.way.name,
                                seconds_text(best.cost.seconds), name(best.cost.bottleneck));
  for (const way_cost& other : all) {
    const bool is_near = &other != &best && other.cost.seconds <= best.cost.seconds * near;
    if (const std::string saved = is_near ? savings(other, best) : std::string(); !saved.empty()) {
      out += fmt::format("; {} takes {} s and needs less: {}", other.way.name, seconds_text(other.cost.seconds), saved);
    }
  }
  return out;
}

void print_text(const plan_request& how, const cluster& on, const plan& made, std::span<const way_cost> all) {
  fmt::print("{}: {}, {}\n{} of {}, {} of {}, buckets of {}, {} in flight\n\n", printable(how.checkpoint),
             counted(made.tensors.size(), "tensor"), bytes_text(model_bytes(made)), counted(on.nodes, "node"),
             counted(on.ranks_per_node, "rank"), counted(how.replicas, "replica"), counted(how.shards, "shard"),
             bytes_text(how.bucket_bytes), made.options.buckets_in_flight);
  std::vector<std::string> header{"", "seconds"};
  if (how.simulate) {
    header.emplace_back("simulated");
  }
  for (const std::string_view column :
       {"bottleneck", "storage", "NIC", on.nvlink_bandwidth ? "NVLink" : "in nodes", "PCIe", "host", "device"}) {
    header.emplace_back(column);
  }
  text_table table(std::move(header));
  for (const auto& [way, cost, simulated] : all) {
    std::vector<std::string> row{std::string(way.name), seconds_text(cost.seconds)};
    if (simulated) {
      row.push_back(seconds_text(simulated->seconds));
    }
    row.emplace_back(name(cost.bottleneck));
    for (const std::uint64_t bytes : {cost.storage_bytes, cost.nic_bytes, cost.in_node_bytes, cost.pcie_bytes,
                                      cost.host_peak_bytes, cost.device_peak_bytes}) {
      row.push_back(bytes_text(bytes));
    }
    table.add(std::move(row));
  }
  fmt::print("{}\n{}\n", table.text(terminal_columns(STDOUT_FILENO)), recommendation(all));
}

void print_json(const plan_request& how, const cluster& on, const plan& made, std::span<const way_cost> all) {
  using nlohmann::ordered_json;
  ordered_json rows = ordered_json::array();
  const auto by_resource = [](const std::array<double, cluster_resources>& busy) {
    ordered_json out = ordered_json::object();
    for (std::size_t i = 0; i < cluster_resources; ++i) {
      out[std::string(name(static_cast<cluster_resource>(i)))] = busy[i];
    }
    return out;
  };
  for (const auto& [way, cost, simulated] : all) {
    rows.push_back({{"name", way.name},
                    {"seconds", cost.seconds},
                    {"bottleneck", name(cost.bottleneck)},
                    {"busy_seconds", by_resource(cost.busy)},
                    {"storage_bytes", cost.storage_bytes},
                    {"nic_bytes", cost.nic_bytes},
                    {"in_node_bytes", cost.in_node_bytes},
                    {"pcie_bytes", cost.pcie_bytes},
                    {"host_peak_bytes", cost.host_peak_bytes},
                    {"device_peak_bytes", cost.device_peak_bytes}});
    if (simulated) {
      rows.back()["simulated"] = {{"seconds", simulated->seconds},
                                  {"source_waited_seconds", simulated->source_waited},
                                  {"busy_seconds", by_resource(simulated->busy)},
                                  {"staging_peak_bytes", simulated->staging_peak_bytes}};
    }
  }
  fmt::print("{}", json_text({{"format", "fsdpinit.cluster_plan"},
                              {"format_version", 1},
                              {"checkpoint", how.checkpoint},
                              {"nodes", on.nodes},
                              {"ranks_per_node", on.ranks_per_node},
                              {"shards", how.shards},
                              {"replicas", how.replicas},
                              {"bucket_bytes", how.bucket_bytes},
                              {"buckets_in_flight", made.options.buckets_in_flight},
                              {"model_bytes", model_bytes(made)},
                              {"ways", std::move(rows)},
                              {"recommendation", recommendation(all)}}));
}

}  // namespace

void print_cluster_plan(const plan_request& how, const cluster& on, const planned_contents& contents) {
  plan_options options = options_of(how);
  options.access.host = !on.pcie_bandwidth;
  std::vector<way_cost> all;
  plan made;
  for (const way& each : ways) {
    if (each.source_per_node && on.nodes == 1) {
      continue;
    }
    options.transport = each.transport;
    options.source_ranks.source_of =
        each.source_per_node ? source_ranks_per_node(on, how.source_rank) : std::vector<std::size_t>{};
    made = plan_of(how, contents, options);
    const std::vector<prediction> ranks = predict_every_rank(made);
    all.push_back({.way = each, .cost = cost_on(on, made, ranks)});
    if (how.simulate) {
      all.back().simulated = simulate_on(on, made, ranks);
    }
  }
  how.json ? print_json(how, on, made, all) : print_text(how, on, made, all);
}

}  // namespace fsdpinit::tool
