#include "cluster_file.hpp"
#include "commands.hpp"
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/cost/cluster_cost.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <ios>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

namespace fsdpinit::tool {
namespace {

constexpr std::array<std::string_view, 11> fields{"nodes",
                                                  "ranks_per_node",
                                                  "storage_bytes_per_second_per_node",
                                                  "storage_bytes_per_second",
                                                  "storage_latency_seconds",
                                                  "host_copy_bytes_per_second_per_node",
                                                  "pcie_bytes_per_second_per_gpu",
                                                  "nvlink_bytes_per_second_per_gpu",
                                                  "nic_bytes_per_second_per_node",
                                                  "nic_latency_seconds",
                                                  "comment"};

/// One file's fields, with its name for errors.
class cluster_fields {
 public:
  explicit cluster_fields(const std::string& path) : path_(path) {
    std::ifstream in(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    if (!in.is_open() || in.bad()) {
      throw error(errc::io, path, "cannot be read; check the path", {.native_code = errno});
    }
    json_ = nlohmann::json::parse(text, nullptr, false);
    if (!json_.is_object()) {
      fail("is no JSON object; give one as in examples/clusters/");
    }
    for (const auto& [field, value] : json_.items()) {
      if (std::find(fields.begin(), fields.end(), field) == fields.end()) {
        fail(fmt::format("{}: is no field of a cluster; remove it, or use one of {}", printable(field),
                         fmt::join(fields, ", ")));
      }
    }
  }

  [[nodiscard]] std::size_t count(std::string_view field) const {
    const nlohmann::json& value = required(field);
    if (!value.is_number_unsigned() || value == 0U || value > most_planned_ranks) {
      fail(fmt::format("{}: {} is no count; use a whole number from 1 to {}", field, shown(value), most_planned_ranks));
    }
    return value.get<std::size_t>();
  }
  [[nodiscard]] double bandwidth(std::string_view field) const { return positive(field, required(field)); }
  [[nodiscard]] std::optional<double> optional_bandwidth(std::string_view field) const {
    const auto at = json_.find(field);
    return at == json_.end() ? std::nullopt : std::optional(positive(field, *at));
  }
  /// 0 where it is not given.
  [[nodiscard]] double latency(std::string_view field) const {
    const auto at = json_.find(field);
    if (at == json_.end()) {
      return 0;
    }
    if (!at->is_number() || at->get<double>() < 0 || at->get<double>() > most_seconds) {
      fail(fmt::format("{}: {} is no latency; use a number of seconds from 0 to {}", field, shown(*at), most_seconds));
    }
    return at->get<double>();
  }

  [[noreturn]] void fail(const std::string& what) const { throw error(errc::invalid_file, path_, what); }

 private:
  static constexpr double most_seconds = 3600;

  static std::string shown(const nlohmann::json& value) {
    return printable(value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
  }
  [[nodiscard]] const nlohmann::json& required(std::string_view field) const {
    const auto at = json_.find(field);
    if (at == json_.end()) {
      fail(fmt::format("{}: is missing; add it, as in examples/clusters/", field));
    }
    return *at;
  }
  [[nodiscard]] double positive(std::string_view field, const nlohmann::json& value) const {
    if (!value.is_number() || value.get<double>() < 1 || !std::isfinite(value.get<double>())) {
      fail(fmt::format("{}: {} is no bandwidth; use a number of bytes per second, at least 1", field, shown(value)));
    }
    return value.get<double>();
  }

  const std::string& path_;
  nlohmann::json json_;
};

}  // namespace

cluster read_cluster(const std::string& path) {
  const cluster_fields from(path);
  cluster out{.nodes = from.count("nodes"),
              .ranks_per_node = from.count("ranks_per_node"),
              .storage_bandwidth_per_node = from.bandwidth("storage_bytes_per_second_per_node"),
              .storage_bandwidth = from.optional_bandwidth("storage_bytes_per_second"),
              .storage_latency = from.latency("storage_latency_seconds"),
              .host_copy_bandwidth = from.bandwidth("host_copy_bytes_per_second_per_node"),
              .pcie_bandwidth = from.optional_bandwidth("pcie_bytes_per_second_per_gpu"),
              .nvlink_bandwidth = from.optional_bandwidth("nvlink_bytes_per_second_per_gpu"),
              .nic_latency = from.latency("nic_latency_seconds")};
  if (out.ranks() > most_planned_ranks) {
    from.fail(fmt::format("nodes: {} of {} ranks are {} ranks; at most {} are possible", out.nodes, out.ranks_per_node,
                          out.ranks(), most_planned_ranks));
  }
  if (out.nvlink_bandwidth && !out.pcie_bandwidth) {
    from.fail("nvlink_bytes_per_second_per_gpu: links GPUs, but there are none; add pcie_bytes_per_second_per_gpu");
  }
  if (out.nodes > 1) {
    out.nic_bandwidth = from.bandwidth("nic_bytes_per_second_per_node");
  } else {
    out.nic_bandwidth = from.optional_bandwidth("nic_bytes_per_second_per_node").value_or(0);
  }
  return out;
}

}  // namespace fsdpinit::tool
