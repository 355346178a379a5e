#include "chosen_model.hpp"
#include "commands.hpp"
#include "opener.hpp"
#include "progress.hpp"
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/partition.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/observe/text_table.hpp>
#include <fsdpinit/sources/safetensors.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace fsdpinit::tool {
namespace {

/// Of the checkpoint and of the dump, so much at once.
constexpr std::uint64_t window_bytes = 4 * mib;

/// One file of a dump, as `dump_shards` writes them.
struct rank_file {
  safetensors_source source;
  std::size_t rank = 0;
  std::size_t shards = 0;
  std::size_t replicas = 0;
  nlohmann::json places{};
  std::map<std::string_view, std::size_t> by_name{};  // of `source`

  [[nodiscard]] const std::string& path() const { return source.files().front().path; }
  [[nodiscard]] std::size_t ranks() const { return shards * replicas; }
};

std::size_t number_of(const std::string& file, const std::map<std::string, std::string>& metadata, const char* key) {
  const auto entry = metadata.find(key);
  std::size_t value = 0;
  if (entry != metadata.end()) {
    const std::string& text = entry->second;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failed == std::errc() && end == text.data() + text.size() && value <= most_planned_ranks) {
      return value;
    }
  }
  throw error(errc::invalid_file, file,
              concat("its metadata have no usable `", key, "`; give a folder that load --dump has written"));
}

rank_file open_rank(const std::string& path) {
  rank_file file{.source = safetensors_source(path)};
  const auto& metadata = file.source.files().front().metadata;
  const auto says = [&](const char* key, std::string_view value) {
    const auto entry = metadata.find(key);
    return entry != metadata.end() && entry->second == value;
  };
  if (!says("format", shards_format) || !says("format_version", "1")) {
    throw error(errc::invalid_file, path, "holds no shards of one rank; give a folder that load --dump has written");
  }
  file.rank = number_of(path, metadata, "rank");
  file.shards = number_of(path, metadata, "shards");
  file.replicas = number_of(path, metadata, "replicas");
  const auto places = metadata.find("tensors");
  file.places = nlohmann::json::parse(places == metadata.end() ? "" : places->second, nullptr, false);
  if (!file.places.is_object() || file.ranks() == 0 || file.rank >= file.ranks()) {
    throw error(errc::invalid_file, path, "its metadata are not those of a dump; dump again");
  }
  for (std::size_t i = 0; i < file.source.tensors().size(); ++i) {
    file.by_name.emplace(file.source.tensors()[i].name, i);
  }
  return file;
}

/// Every rank's file, in rank order.
std::vector<rank_file> open_dump(const std::string& folder) {
  std::vector<rank_file> files;
  for (const std::string& name : detail::names_in(folder)) {
    if (name.ends_with(".safetensors")) {
      files.push_back(open_rank(concat(folder, folder.ends_with('/') ? "" : "/", name)));
    }
  }
  if (files.empty()) {
    throw error(errc::invalid_file, folder, "holds no .safetensors file; give a folder that load --dump has written");
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (files[i].shards != files[0].shards || files[i].replicas != files[0].replicas) {
      throw error(errc::invalid_file, files[i].path(),
                  concat("is of another dump than ", printable(files[0].path()), "; give the folder of one dump"));
    }
    if (files[i].rank != i) {
      throw error(errc::invalid_file, folder,
                  concat("holds ", files[i].rank < i ? "two files" : "no file", " of rank ", std::min(i, files[i].rank),
                         "; dump again"));
    }
  }
  if (files.size() != files[0].ranks()) {
    throw error(errc::invalid_file, folder, concat("holds no file of rank ", files.size(), "; dump again"));
  }
  return files;
}

template <class Source>
class dump_check {
 public:
  dump_check(Source& checkpoint, const rank_file& file, progress_display& shown, std::uint64_t total)
      : checkpoint_(checkpoint), file_(file), shown_(shown), total_(total) {}

  /// \return the bytes that were compared.
  std::uint64_t run(const module_view& view, const std::vector<load_item>& items) {
    std::uint64_t bytes = 0;
    std::size_t names = 0;
    for (const load_item& item : items) {
      for (const std::size_t slot : view.slots_of(view.tensors[item.tensor])) {
        bytes += check(view.slots[slot], item.source);
        ++names;
      }
    }
    if (names != file_.by_name.size()) {
      throw error(errc::unexpected_tensor, file_.path(),
                  concat("holds ", file_.by_name.size(), " tensors, the module has ", names,
                         " of them; give verify the --model, --rename, --map and --dtype that load was given"));
    }
    return bytes;
  }

 private:
  [[nodiscard]] std::size_t shard() const { return file_.rank % file_.shards; }

  std::uint64_t check(const slot_record& slot, std::size_t stored) {
    const auto found = file_.by_name.find(slot.fqn);
    if (found == file_.by_name.end()) {
      throw error(errc::missing_tensor, slot.fqn, concat("is not in ", printable(file_.path()), "; dump again"));
    }
    require_place(slot, file_.source.tensors()[found->second]);
    const partition whole = partition::make(slot.fqn, slot.dtype, slot.shape, slot.placement, file_.shards);
    const byte_region region = whole.region(shard());
    for (std::uint64_t begin = 0; begin < region.bytes(); begin += window_bytes) {
      const std::uint64_t count = std::min(window_bytes, region.bytes() - begin);
      const mutable_bytes wanted = mutable_bytes(wanted_).first(count);
      const mutable_bytes got = mutable_bytes(got_).first(count);
      for_each_run(region, begin, begin + count, [&](std::uint64_t global, std::uint64_t local, std::uint64_t length) {
        checkpoint_.read(stored, global, wanted.subspan(local - begin, length));
      });
      file_.source.read(found->second, begin, got);
      if (std::memcmp(got.data(), wanted.data(), count) != 0) {
        const auto [here, there] = std::mismatch(got.begin(), got.end(), wanted.begin());
        throw error(errc::corrupted, slot.fqn,
                    fmt::format("byte {} of its shard in {} is {:#04x}, by the checkpoint it is {:#04x}; dump again, "
                                "and have memory and disk checked",
                                begin + static_cast<std::uint64_t>(here - got.begin()), printable(file_.path()),
                                std::to_integer<unsigned>(*here), std::to_integer<unsigned>(*there)));
      }
      shown_.add(count, total_);
    }
    return region.bytes();
  }

  void require_place(const slot_record& slot, const tensor_descriptor& found) const {
    const shard_view part = view_of_shard(slot.fqn, slot.shape, slot.placement, file_.shards, shard());
    if (found.dtype != slot.dtype || found.shape != part.shape) {
      throw error(errc::shape_mismatch, slot.fqn,
                  concat("is ", to_string(found.shape), " ", name(found.dtype), " in ", printable(file_.path()),
                         ", where ", to_string(part.shape), " ", name(slot.dtype), " belongs; dump again"));
    }
    nlohmann::json wanted{{"shape", std::vector<std::uint64_t>(slot.shape.begin(), slot.shape.end())},
                          {"dim", nullptr},
                          {"offset", part.offset}};
    if (slot.placement.is_shard()) {
      wanted["dim"] = sharded_dim(slot.fqn, slot.shape, slot.placement);
    }
    const auto place = file_.places.find(slot.fqn);
    if (place == file_.places.end() || *place != wanted) {
      throw error(
          errc::invalid_file, file_.path(),
          concat("its metadata do not say where ", printable(slot.fqn), " belongs, ", wanted.dump(), "; dump again"));
    }
  }

  Source& checkpoint_;
  const rank_file& file_;
  progress_display& shown_;
  std::uint64_t total_;
  std::vector<std::byte> wanted_ = std::vector<std::byte>(window_bytes);
  std::vector<std::byte> got_ = std::vector<std::byte>(window_bytes);
};

}  // namespace

void run_verify(const verify_request& how) {
  require_fitting_module(how);
  auto checkpoint = opener_of(how)();
  const std::vector<rank_file> files = open_dump(how.dump);
  dynamic_module module = module_of(how, checkpoint.tensors());
  const module_view view = view_of(module);
  unmatched_names unmatched;
  const std::vector<load_item> items = match(view, detail::contents_of(checkpoint), how.strict ? nullptr : &unmatched);
  std::uint64_t total = 0;
  for (const rank_file& file : files) {
    for (const tensor_descriptor& tensor : file.source.tensors()) {
      total += byte_size(tensor);
    }
  }
  std::uint64_t compared = 0;
  {
    progress_display shown("verify");
    for (const rank_file& file : files) {
      compared += dump_check(checkpoint, file, shown, total).run(view, items);
    }
  }
  fmt::print("{} of {}: {} are what the checkpoint says\n", counted(files.size(), "rank"),
             counted(files.front().by_name.size(), "tensor"), bytes_text(compared));
}

}  // namespace fsdpinit::tool
