#include "commands.hpp"
#include "planning.hpp"
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/observe/program_text.hpp>
#include <fsdpinit/observe/report_json.hpp>
#include <fsdpinit/plan/program.hpp>
#include <fsdpinit/plan/program_summary.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace fsdpinit::tool {
namespace {

using nlohmann::ordered_json;

/// Fields that mean nothing to a step are left out.
ordered_json step_json(const step_summary& each, const std::vector<std::string>& names) {
  ordered_json out{
      {"phase", name(each.phase)}, {"step", name(each.kind)}, {"count", each.steps}, {"bytes", each.bytes}};
  if (each.has_tensor()) {
    out["first_tensor"] = names[each.first_tensor];
    out["last_tensor"] = names[each.last_tensor];
  }
  const auto add_region = [&](const char* key, region_kind kind) {
    if (kind != region_kind::none) {
      out[key] = name(kind);
    }
  };
  add_region("from", each.from);
  add_region("to", each.to);
  const bool sends_or_receives = each.kind == step_kind::scatter || each.kind == step_kind::broadcast;
  if (sends_or_receives || each.kind == step_kind::check_sum || each.kind == step_kind::compare_sums) {
    out["rank"] = each.rank;
  }
  if (sends_or_receives) {
    out["receivers"] = each.ranks;
  }
  if (each.copies) {
    out["further_copies"] = true;
  }
  return out;
}

ordered_json round_json(const round_summary& each, const std::vector<std::string>& names) {
  ordered_json out{{"first", each.first}, {"last", each.last}};
  if (each.as.empty()) {
    out["kind"] = name(each.kind);
    out["steps"] = ordered_json::array();
    for (const step_summary& step : each.steps) {
      out["steps"].push_back(step_json(step, names));
    }
  } else {
    out["as"] = ordered_json::array();
    for (const repeated_round& as : each.as) {
      out["as"].push_back({{"round", as.round}, {"times", as.times}});
    }
  }
  out["bytes_read"] = each.read;
  out["bytes_sent"] = each.sent;
  out["bytes_received"] = each.received;
  out["agreements"] = each.agreements;
  return out;
}

}  // namespace

void print_program(const plan_request& how, const named_plan& of) {
  program mine = program_of(of.made, how.explained_rank.value_or(0));
  const program_summary summary = summary_of(mine);
  if (!how.json) {
    fmt::print("{}", to_text(summary, [&](std::size_t tensor) { return printable(of.names[tensor]); }));
    return;
  }
  ordered_json regions = ordered_json::array();
  for (const program_region& each : summary.regions) {
    regions.push_back({{"region", name(each.kind)}, {"index", each.index}, {"bytes", each.bytes}});
  }
  ordered_json rounds = ordered_json::array();
  for (const round_summary& each : summary.summaries) {
    rounds.push_back(round_json(each, of.names));
  }
  fmt::print("{}", json_text({{"format", "fsdpinit.program"},
                              {"format_version", 1},
                              {"checkpoint", how.checkpoint},
                              {"rank", summary.rank},
                              {"ranks", of.made.options.ranks.size()},
                              {"rounds", summary.rounds},
                              {"regions", std::move(regions)},
                              {"explained", std::move(rounds)}}));
}

}  // namespace fsdpinit::tool
