#pragma once

// A checkpoint of another project as a StateDictSource: llm.c's model files (github.com/karpathy/llm.c, train_gpt2.py, write_model):
// 256 integers, then each kind of parameter for all layers, one after the other.
#include "model.hpp"
#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/os/file.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace gpt {

using fsdpinit::concat;

/// What such a file holds, in its order.
inline std::vector<fsdpinit::tensor_descriptor> llmc_tensors(const config& shape, dtype type) {
  std::vector<fsdpinit::tensor_descriptor> out;
  const std::uint64_t c = shape.channels;
  const auto of_all_layers = [&](const char* name, const fsdpinit::shape& extents) {
    for (std::uint64_t layer = 0; layer < shape.layers; ++layer) {
      out.push_back({.name = concat("h.", layer, ".", name), .dtype = type, .shape = extents});
    }
  };
  out.push_back({.name = "wte.weight", .dtype = type, .shape = {shape.rows, c}});
  out.push_back({.name = "wpe.weight", .dtype = type, .shape = {shape.positions, c}});
  of_all_layers("ln_1.weight", {c});
  of_all_layers("ln_1.bias", {c});
  of_all_layers("attn.c_attn.weight", {3 * c, c});
  of_all_layers("attn.c_attn.bias", {3 * c});
  of_all_layers("attn.c_proj.weight", {c, c});
  of_all_layers("attn.c_proj.bias", {c});
  of_all_layers("ln_2.weight", {c});
  of_all_layers("ln_2.bias", {c});
  of_all_layers("mlp.c_fc.weight", {4 * c, c});
  of_all_layers("mlp.c_fc.bias", {4 * c});
  of_all_layers("mlp.c_proj.weight", {c, 4 * c});
  of_all_layers("mlp.c_proj.bias", {c});
  out.push_back({.name = "ln_f.weight", .dtype = type, .shape = {c}});
  out.push_back({.name = "ln_f.bias", .dtype = type, .shape = {c}});
  return out;
}

class llmc_checkpoint {
 public:
  static constexpr std::uint64_t header_bytes = 1024;
  static constexpr std::int32_t magic = 20240326;
  static constexpr std::int32_t version_f32 = 3;
  static constexpr std::int32_t version_bf16 = 5;
  static constexpr bool reads_concurrently = true;

  /// \throws fsdpinit::error{io}, error{invalid_file}
  explicit llmc_checkpoint(const std::string& path) : file_(path) {
    std::array<std::int32_t, header_bytes / 4> header{};
    if (file_.size() >= header_bytes) {
      file_.read_exact_at(0, std::as_writable_bytes(std::span(header)));
    }
    const auto positive = [&](std::size_t at) {
      return header[at] > 0 && header[at] < 1 << 24 ? static_cast<std::uint64_t>(header[at]) : 0;
    };
    config_ = {.positions = positive(2),
               .vocabulary = positive(3),
               .layers = positive(4),
               .heads = positive(5),
               .channels = positive(6),
               .rows = positive(7)};
    if (header[0] != magic || (header[1] != version_f32 && header[1] != version_bf16) || config_.positions == 0 ||
        config_.vocabulary == 0 || config_.layers == 0 || config_.layers > 100'000 || config_.heads == 0 ||
        config_.channels % config_.heads != 0 || config_.channels == 0 || config_.rows < config_.vocabulary) {
      throw fsdpinit::error(fsdpinit::errc::invalid_file, path, "is no model file of llm.c, version 3 or 5");
    }
    const dtype type = header[1] == version_f32 ? dtype::f32 : dtype::bf16;
    tensors_ = llmc_tensors(config_, type);
    std::uint64_t next = header_bytes;
    for (const fsdpinit::tensor_descriptor& tensor : tensors_) {
      begins_.push_back(next);
      next += byte_size(tensor);
    }
    if (next != file_.size()) {
      throw fsdpinit::error(fsdpinit::errc::invalid_file, path,
                            concat("has ", file_.size(), " bytes, but such a model takes ", next));
    }
  }

  [[nodiscard]] const config& shape() const noexcept { return config_; }

  // -- StateDictSource, PositionedSource ------------------------------------------------------------------------------------

  [[nodiscard]] std::span<const fsdpinit::tensor_descriptor> tensors() const noexcept { return tensors_; }
  void read(std::size_t tensor, std::uint64_t offset, fsdpinit::mutable_bytes to) const {
    file_.read_exact_at(begins_[tensor] + offset, to);
  }
  [[nodiscard]] static std::size_t file_count() noexcept { return 1; }
  [[nodiscard]] fsdpinit::file_position position_of(std::size_t tensor) const noexcept {
    return {.file = 0, .offset = begins_[tensor]};
  }
  void read_file(std::size_t /*file*/, std::uint64_t offset, fsdpinit::mutable_bytes to) const {
    file_.read_exact_at(offset, to);
  }

 private:
  fsdpinit::input_file file_;
  config config_;
  std::vector<fsdpinit::tensor_descriptor> tensors_;
  std::vector<std::uint64_t> begins_;
};

}  // namespace gpt
