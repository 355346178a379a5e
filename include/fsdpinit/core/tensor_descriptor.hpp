#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/shape.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace fsdpinit {

/// What is known of a tensor without its storage: its fully qualified name (FQN), element type and global shape.
struct tensor_descriptor {
  std::string name{};
  fsdpinit::dtype dtype = fsdpinit::dtype::f32;
  fsdpinit::shape shape{};

  friend bool operator==(const tensor_descriptor&, const tensor_descriptor&) = default;
};

/// What a tensor is in the checkpoint, where adaptors show it otherwise.
struct stored_form {
  fsdpinit::dtype dtype = fsdpinit::dtype::f32;
  std::string name{};  ///< empty: the one it is shown under
  friend bool operator==(const stored_form&, const stored_form&) = default;
};

/// What lies beside a checkpoint's tensors without being part of it, because its index leaves it out.
struct unlisted_tensor {
  std::string name{};  ///< empty: the whole file, which was not looked into
  std::string file{};  ///< its plain name
  friend bool operator==(const unlisted_tensor&, const unlisted_tensor&) = default;
};

/// What a state dict holds: `stored[i]` is what `tensors[i]` is in the checkpoint. Without any `stored` all are shown as they are.
struct state_dict_contents {
  std::vector<tensor_descriptor> tensors{};
  std::vector<stored_form> stored{};
  std::vector<unlisted_tensor> unlisted{};

  [[nodiscard]] fsdpinit::dtype stored_dtype(std::size_t tensor) const {
    return stored.empty() ? tensors[tensor].dtype : stored[tensor].dtype;
  }
  [[nodiscard]] const std::string& stored_name(std::size_t tensor) const {
    return stored.empty() || stored[tensor].name.empty() ? tensors[tensor].name : stored[tensor].name;
  }
};

/// Where a tensor's bytes begin in what a state dict is read from, for sources that know it: the n-th of its files, and a byte
/// offset into that.
struct file_position {
  std::size_t file = 0;
  std::uint64_t offset = 0;
  friend bool operator==(const file_position&, const file_position&) = default;
};

/// What a file of a checkpoint looks like from outside: copies of it agree, wherever they lie.
struct file_fingerprint {
  std::string path{};        ///< as it was opened, for errors; copies may have another
  std::uint64_t bytes = 0;   ///< of the whole file
  std::uint64_t header = 0;  ///< a hash of its header, as it was read; 0: the format has none
};

/// Bytes of the whole tensor. \throws error{invalid_argument} as `byte_size(fqn, dtype, shape)` does.
[[nodiscard]] inline std::uint64_t byte_size(const tensor_descriptor& tensor) {
  return byte_size(tensor.name, tensor.dtype, tensor.shape);
}

}  // namespace fsdpinit
