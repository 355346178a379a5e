#include "arguments.hpp"
#include "byte_size.hpp"
#include "commands.hpp"
#include "help_text.hpp"
#include "name_patterns.hpp"
#include "published_models.hpp"
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/core/version.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/init/policies.hpp>
#include <fsdpinit/os/page_cache.hpp>
#include <fsdpinit/plan/transport.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::tool {
namespace {

constexpr const char* about =
    "Brings a fully sharded model up from a safetensors checkpoint, at the memory\n"
    "cost of its shards. CHECKPOINT is a .safetensors file, an index\n"
    "(*.safetensors.index.json), or the folder of one checkpoint.\n";
constexpr const char* command_names = "inspect, plan, load, verify or synthesize";

template <class Value>
using choices = std::vector<std::pair<std::string_view, Value>>;

template <class Value>
std::optional<Value> find(const choices<Value>& among, std::string_view name) {
  for (const auto& [known, value] : among) {
    if (known == name) {
      return value;
    }
  }
  return std::nullopt;
}

/// An option with a few named values.
template <class Target, class Value>
CLI::Option* add_choice(CLI::App& command, const std::string& name, Target& target, const choices<Value>& among,
                        const std::string& help) {
  return command
      .add_option_function<std::string>(
          name, [&target, among](const std::string& text) { target = *find(among, text); }, help)
      ->check([among](const std::string& text) {
        if (find(among, text)) {
          return std::string();
        }
        std::string all;
        for (const auto& each : among) {
          all += fmt::format("{}{}", all.empty() ? "" : ", ", each.first);
        }
        return fmt::format("\"{}\" is unknown; use one of {}", text, all);
      });
}

CLI::Option* add_path(CLI::App& command, const std::string& name, std::string& path, const std::string& help) {
  return command.add_option(name, path, help)->check([](const std::string& text) {
    return text.empty() ? std::string("the path is empty") : std::string();
  });
}

std::string whole_number(const std::string& text) {
  std::uint64_t value = 0;
  const bool fits = text.find('-') == std::string::npos && CLI::detail::lexical_cast(text, value);
  return fits ? std::string() : fmt::format("\"{}\" is no number from 0 on", text);
}

auto count_up_to(std::size_t most) {
  return [=](const std::string& text) {
    std::size_t value = 0;
    const bool fits = CLI::detail::lexical_cast(text, value) && value >= 1 && value <= most;
    return fits ? std::string() : fmt::format("\"{}\" is no number from 1 to {}", text, most);
  };
}

void add_sharding(CLI::App& command, sharding_request& how, std::size_t most_shards) {
  add_path(command, "CHECKPOINT", how.checkpoint, "a .safetensors file, an index or a folder")->required();
  const auto is_count = count_up_to(most_shards);
  command.add_option("--shards", how.shards, "number of ranks to shard over")
      ->required()
      ->check(is_count)
      ->type_name("S");
  command.add_option("--replicas", how.replicas, "copies of the sharded model; there are R x S ranks; default 1")
      ->check(is_count)
      ->type_name("R");
  command.add_option("--source-rank", how.source_rank, "the rank that reads for the others; default 0")
      ->check(whole_number)
      ->type_name("N");
  choices<std::string> policies;
  for (const std::string_view each :
       {native_sharding<>::name, cpu_ram_efficient_loading<>::name, every_rank_loads::name}) {
    policies.emplace_back(each, each);
  }
  add_choice(command, "--policy", how.policy_name, policies,
             "native-sharding (default); cpu-ram-efficient-loading: the source rank loads the whole model "
             "first, then it is distributed from there; every-rank-loads: the baseline")
      ->type_name("P");
  choices<transport> transports;
  for (const transport each : {transport::scatter, transport::broadcast, transport::own_read, transport::automatic}) {
    transports.emplace_back(name(each), each);
  }
  add_choice(command, "--transport", how.transport, transports,
             "scatter (default): each rank is sent its part; broadcast: each is sent everything and "
             "keeps its part; own-read: each reads its part; automatic: own-read for large chunks where "
             "every rank can read the checkpoint, else scatter. Means nothing to every-rank-loads")
      ->type_name("T");
  command
      .add_option_function<std::string>(
          "--bucket-bytes", [&how](const std::string& text) { how.bucket_bytes = *parse_byte_size(text); },
          "size of one staging bucket, such as 65536, 4MiB, 16M; default 4MiB")
      ->check([](const std::string& text) {
        return parse_byte_size(text).value_or(0) != 0
                   ? std::string()
                   : fmt::format("\"{}\" is no size; give a number of bytes, such as 65536, 4MiB, 16M", text);
      })
      ->type_name("B");
  add_choice<verification, verification>(
      command, "--verify", how.verify,
      {{"off", verification::off}, {"transfer", verification::transfer}, {"reread", verification::reread}},
      "transfer: check on every rank that what was placed is what was read; reread: also read "
      "each rank's part again, by another rank where ranks read by themselves; default: off")
      ->type_name("LEVEL");
}

void add_map(CLI::App& command, std::string& map) {
  add_path(command, "--map", map,
           "tensors as the rules in this file make them of stored ones: fused, stacked, transposed, padded")
      ->type_name("FILE.json");
}

void add_adaptors(CLI::App& command, sharding_request& how) {
  command
      .add_option_function<std::vector<std::string>>(
          "--rename",
          [&how](const std::vector<std::string>& rules) {
            for (const std::string& rule : rules) {
              how.renames.push_back(parse_rename(rule).call);
            }
          },
          "FROM=TO: names that begin with FROM begin with TO instead; s/REGEX/REPLACEMENT/: as sed, with "
          "a g behind it for all that matches; may be given several times")
      ->check([](const std::string& text) { return parse_rename(text).fault; })
      ->allow_extra_args(false)
      ->type_name("RULE");
  add_map(command, how.map);
  add_choice<std::optional<dtype>, dtype>(command, "--dtype", how.type,
                                          {{"bf16", dtype::bf16}, {"f16", dtype::f16}, {"f32", dtype::f32}},
                                          "cast floating tensors (F64, F32, F16, BF16): bf16, f16 or f32; default: as "
                                          "stored")
      ->type_name("TYPE");
  command
      .add_option_function<std::vector<std::string>>(
          "--keep-dtype",
          [&how](const std::vector<std::string>& patterns) {
            for (const std::string& pattern : patterns) {
              how.kept_dtypes.push_back(parse_pattern(pattern).call);
            }
          },
          "but not tensors in whose names (after --rename and --map) this is found; may be given several times")
      ->check([](const std::string& text) { return parse_pattern(text).fault; })
      ->allow_extra_args(false)
      ->needs("--dtype")
      ->type_name("REGEX");
}

choices<std::string> model_names() {
  choices<std::string> names;
  for (const published_model& model : published_models) {
    names.emplace_back(model.name, model.name);
  }
  return names;
}
constexpr const char* model_names_text =
    "qwen3-0.6b, qwen3-8b, qwen3-30b-a3b, llama3-8b, mixtral-8x7b, deepseek-v3 or gpt2";

void add_module(CLI::App& command, sharding_request& how) {
  add_choice(command, "--model", how.model, model_names(),
             fmt::format("the module is this published model ({}), "
                         "which the checkpoint has to fit; default: the checkpoint's own list of tensors",
                         model_names_text))
      ->type_name("NAME");
  command.add_option("--layers", how.layers, "only the first L layers of that model")
      ->check(whole_number)
      ->type_name("L");
  command.add_option("--experts", how.experts, "only the first E experts of each layer")
      ->check(whole_number)
      ->type_name("E");
  command.add_flag("!--non-strict", how.strict,
                   "tensors that only one of the two has are listed in the report, not errors");
}

CLI::App& add_inspect(CLI::App& app, inspect_request& how) {
  CLI::App& command = *app.add_subcommand("inspect", "Show what a checkpoint holds");
  add_path(command, "CHECKPOINT", how.checkpoint, "a .safetensors file, an index or a folder")->required();
  add_map(command, how.map);
  command.add_flag("--json", how.json, "every tensor, as JSON");
  return command;
}

CLI::App& add_plan(CLI::App& app, plan_request& how) {
  CLI::App& command = *app.add_subcommand("plan", "Predict each rank's memory and traffic, reading no tensor");
  add_sharding(command, how, most_planned_ranks);
  add_adaptors(command, how);
  add_module(command, how);
  command.get_option("--shards")->required(false);  // where a cluster says it
  add_path(command, "--cluster", how.cluster,
           "compare what each way to load takes on a cluster of these figures (see examples/clusters/); "
           "CHECKPOINT may be the name of a published model, and S follows from the ranks")
      ->excludes(command.get_option("--policy"))
      ->excludes(command.get_option("--transport"))
      ->type_name("FILE.json");
  command
      .add_flag("--simulate", how.simulate,
                "play each way to load through there, bucket by bucket, beside the model's seconds")
      ->needs("--cluster");
  command
      .add_option("--explain", how.explained_rank,
                  "print what rank N does instead: its rounds, what it reads, sends, receives and places")
      ->check(whole_number)
      ->excludes("--cluster")
      ->type_name("N");
  command.add_flag("--json", how.json, "every rank, every way to load, or what a rank does, as JSON");
  return command;
}

CLI::App& add_load(CLI::App& app, load_request& how) {
  CLI::App& command =
      *app.add_subcommand("load", "Load a checkpoint on S ranks: the processes of mpirun or srun, else threads");
  add_sharding(command, how, most_thread_ranks);
  add_adaptors(command, how);
  add_module(command, how);
  add_path(command, "--dump", how.dump, "write every rank's shards, a file each, to a folder that is empty or absent")
      ->type_name("DIR");
  add_path(command, "--report", how.report, "write the report as JSON")->type_name("FILE.json");
  add_choice<launcher_kind, launcher_kind>(
      command, "--launcher", how.launcher, {{"threads", launcher_kind::threads}, {"mpi", launcher_kind::mpi}},
      "threads, or mpi; default: mpi where mpirun or srun has started this process")
      ->type_name("L");
  command
      .add_option("--reader-threads", how.reader_threads,
                  "threads that read together on each rank that reads; default 1")
      ->check(count_up_to(fsdpinit::most_reader_threads))
      ->type_name("N");
  command
      .add_option("--deadline", how.deadline_seconds, "how long to wait for a rank that does not answer; default 600")
      ->check([](const std::string& text) {
        double value = 0;
        return CLI::detail::lexical_cast(text, value) && value > 0 && value < 1e9
                   ? std::string()
                   : fmt::format("\"{}\" is no number of seconds above 0", text);
      })
      ->type_name("SECONDS");
  add_choice<page_cache, page_cache>(
      command, "--page-cache", how.pages, {{"keep", page_cache::keep}, {"drop-behind", page_cache::drop_behind}},
      "drop-behind: the system's cache gives up what was read of the checkpoint; default: keep")
      ->type_name("PAGES");
  command.add_flag("--optimizer", how.optimizer, "then create the state of AdamW, as a training job would");
  add_path(command, "--timeline", how.timeline, "write each rank's memory over time as CSV")->type_name("FILE.csv");
  return command;
}

CLI::App& add_verify(CLI::App& app, verify_request& how) {
  CLI::App& command = *app.add_subcommand("verify", "Compare what load --dump has written with the checkpoint");
  add_path(command, "CHECKPOINT", how.checkpoint, "a .safetensors file, an index or a folder")->required();
  add_path(command, "--dump", how.dump, "the folder that load --dump has written")->required()->type_name("DIR");
  add_adaptors(command, how);
  add_module(command, how);
  return command;
}

CLI::App& add_synthesize(CLI::App& app, synthesize_request& how) {
  CLI::App& command = *app.add_subcommand(
      "synthesize", "Write a checkpoint of a published model's names and shapes, with made-up values");
  add_choice(command, "--model", how.model, model_names(), model_names_text)->required()->type_name("NAME");
  add_path(command, "DIR", how.folder, "a folder that is empty or absent")->required();
  command.add_option("--layers", how.layers, "only the first L layers")->check(whole_number)->type_name("L");
  command.add_option("--experts", how.experts, "only the first E experts of each layer")
      ->check(whole_number)
      ->type_name("E");
  add_choice<std::optional<dtype>, dtype>(command, "--dtype", how.type, {{"bf16", dtype::bf16}, {"f32", dtype::f32}},
                                          "bf16 or f32; default: as published")
      ->type_name("TYPE");
  command.add_option("--seed", how.seed, "other values; default 0")->check(whole_number)->type_name("N");
  command.add_flag("--published-duplicates", how.published_duplicates,
                   "store tied tensors twice where the published files do");
  return command;
}

/// The parser's errors in the words of the others.
std::string text_of(const CLI::ParseError& wrong, const std::vector<std::string>& unexpected,
                    const std::string& command) {
  const std::string text = wrong.what();
  if (dynamic_cast<const CLI::ExtrasError*>(&wrong) != nullptr && !unexpected.empty()) {
    const std::string first = printable(unexpected.front());
    const bool is_option = first.starts_with('-');
    if (command.empty()) {
      return is_option ? fmt::format("{}: there is no such option", first)
                       : fmt::format("{}: there is no such command; use {}", first, command_names);
    }
    return concat(first, ": ", command, is_option ? " has no such option" : " takes no further argument");
  }
  const std::string option = text.substr(0, text.find(':'));
  if (text.ends_with(" missing")) {
    return fmt::format("{}: needs a value", option);
  }
  return text.find("required but received") == std::string::npos
             ? text
             : fmt::format("{}: is given twice; give it once", option);
}

}  // namespace

std::optional<request> parse_arguments(int count, const char* const* arguments, std::string& command) {
  CLI::App app(about, "fsdpinit");
  app.formatter(std::make_shared<help_text>());
  app.require_subcommand(0, 1);
  app.set_version_flag("--version", fmt::format("fsdpinit {}.{}.{}", FSDPINIT_VERSION_MAJOR, FSDPINIT_VERSION_MINOR,
                                                FSDPINIT_VERSION_PATCH));
  app.footer(
      "Exit codes: 0; 1 with `fsdpinit: error: <file or tensor>: <what, and the\n"
      "remedy>` on stderr; 2 for usage. Example:\n"
      "  fsdpinit synthesize --model gpt2 /tmp/gpt2\n"
      "  fsdpinit load /tmp/gpt2 --shards 4");
  inspect_request inspect;
  plan_request planning;
  load_request load;
  verify_request verify;
  synthesize_request synthesize;
  const CLI::App& inspect_command = add_inspect(app, inspect);
  const CLI::App& plan_command = add_plan(app, planning);
  const CLI::App& load_command = add_load(app, load);
  const CLI::App& verify_command = add_verify(app, verify);
  add_synthesize(app, synthesize);
  const auto name_command = [&] {
    for (const CLI::App* each : app.get_subcommands()) {
      command = each->get_name();
    }
  };
  try {
    app.parse(count, arguments);
  } catch (const CLI::Success& asked) {
    app.exit(asked);  // --help or --version
    return std::nullopt;
  } catch (const CLI::ParseError& wrong) {
    name_command();
    throw usage_error(text_of(wrong, app.remaining(true), command));
  }
  name_command();
  if (command.empty()) {
    throw usage_error(fmt::format("no command given; use {}", command_names));
  }
  if (inspect_command.parsed()) {
    return inspect;
  }
  if (plan_command.parsed()) {
    if (planning.shards == 0 && planning.cluster.empty()) {
      throw usage_error("--shards is required");
    }
    return planning;
  }
  if (load_command.parsed()) {
    return load;
  }
  if (verify_command.parsed()) {
    return verify;
  }
  return synthesize;
}

}  // namespace fsdpinit::tool
