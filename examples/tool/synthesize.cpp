#include "chosen_model.hpp"
#include "commands.hpp"
#include "output_folder.hpp"
#include "progress.hpp"
#include "published_models.hpp"
#include "tensor_content.hpp"
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/observe/report_json.hpp>
#include <fsdpinit/observe/text_table.hpp>
#include <fsdpinit/os/output_file.hpp>
#include <fsdpinit/sources/safetensors_writer.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fsdpinit::tool {
namespace {

/// All the tensor data that is ever in memory. Large enough for the system call not to show, small enough for the
/// cache.
constexpr std::size_t buffer_bytes = 1 * mib;

using tensor_group = std::vector<synthetic_tensor>;

/// In the model's order, a new file where the next tensor would not fit into what published files have, or, of smaller models, a third
/// of all; within a file by name, as the usual writers do.
std::vector<tensor_group> files_of(std::vector<synthetic_tensor> tensors, std::uint64_t total,
                                   std::uint64_t most_file_bytes) {
  const std::uint64_t limit = std::min(most_file_bytes, ceil_div(total, 3));
  std::vector<tensor_group> files;
  std::uint64_t filled = 0;
  for (synthetic_tensor& tensor : tensors) {
    const std::uint64_t bytes = byte_size(tensor.descriptor);
    if (files.empty() || filled + bytes > limit) {
      files.emplace_back();
      filled = 0;
    }
    filled += bytes;
    files.back().push_back(std::move(tensor));
  }
  for (tensor_group& file : files) {
    std::sort(file.begin(), file.end(),
              [](const auto& a, const auto& b) { return a.descriptor.name < b.descriptor.name; });
  }
  return files;
}

class synthesizer {
 public:
  synthesizer(std::uint64_t seed, std::uint64_t total) : seed_(seed), total_(total), piece_(buffer_bytes) {}

  void write(const tensor_group& tensors, const std::string& path) {
    std::vector<tensor_descriptor> descriptors;
    for (const synthetic_tensor& tensor : tensors) {
      descriptors.push_back(tensor.descriptor);
    }
    const safetensors_layout layout = lay_out_safetensors(descriptors, {{"format", "pt"}});
    output_file file(path);
    file.write_all(std::as_bytes(std::span(layout.header)));
    for (const synthetic_tensor& tensor : tensors) {
      write(tensor, file);
    }
    file.sync();
    file.close();
  }

 private:
  void write(const synthetic_tensor& tensor, output_file& file) {
    const tensor_content content(seed_, tensor.content_name);
    const std::uint64_t bytes = byte_size(tensor.descriptor);
    const std::uint64_t element_bytes = bits(tensor.descriptor.dtype) / 8;
    for (std::uint64_t at = 0; at < bytes;) {
      const mutable_bytes piece = std::span(piece_).first(std::min<std::uint64_t>(piece_.size(), bytes - at));
      content.fill(tensor.descriptor.dtype, at / element_bytes, piece);
      file.write_all(piece);
      at += piece.size();
      shown_.add(piece.size(), total_);
    }
  }

  std::uint64_t seed_;
  std::uint64_t total_;
  std::vector<std::byte> piece_;
  progress_display shown_{"synthesize"};
};

std::string index_text(const std::map<std::string, std::string>& file_of_tensor, std::uint64_t total) {
  return json_text({{"metadata", {{"total_size", total}}}, {"weight_map", nlohmann::ordered_json(file_of_tensor)}});
}

}  // namespace

void run_synthesize(const synthesize_request& how, unfinished& outputs) {
  const published_model model = chosen_model(how.model, how.layers, how.experts);
  std::vector<synthetic_tensor> tensors = tensors_of(model, how.type.value_or(model.type), how.published_duplicates);
  const std::size_t count = tensors.size();
  std::uint64_t total = 0;
  for (const synthetic_tensor& tensor : tensors) {
    total += byte_size(tensor.descriptor);
  }

  output_folder folder(outputs, how.folder);
  const std::vector<tensor_group> files = files_of(std::move(tensors), total, model.file_bytes);
  std::map<std::string, std::string> file_of_tensor;
  {
    synthesizer writer(how.seed, total);
    for (std::size_t i = 0; i < files.size(); ++i) {
      const std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, files.size());
      writer.write(files[i], folder.place_of(file));
      for (const synthetic_tensor& tensor : files[i]) {
        file_of_tensor.emplace(tensor.descriptor.name, file);
      }
    }
  }
  const std::string text = index_text(file_of_tensor, total);
  output_file index(folder.place_of("model.safetensors.index.json"));
  index.write_all(std::as_bytes(std::span(text)));
  index.sync();
  index.close();
  folder.commit();
  fmt::print("{}: {}, {} in {}\n", printable(how.folder), counted(count, "tensor"), bytes_text(total),
             counted(files.size(), "file"));
}

}  // namespace fsdpinit::tool
