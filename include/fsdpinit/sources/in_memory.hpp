#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/compiler.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>

#include <gsl/assert>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit {

/// A tensor and where its bytes lie: dense, row-major, little-endian, owned by the caller.
struct in_memory_tensor {
  tensor_descriptor descriptor;
  bytes_view bytes;
};

/// A state dict in host memory that the caller keeps alive and unchanged: a StateDictSource that copies, in the order
/// in which the tensors were given.
class in_memory_source {
 public:
  static constexpr bool reads_concurrently = true;

  in_memory_source() = default;

  /// Cost n log n in the number of tensors; no bytes are copied. \throws error{invalid_argument} naming the tensor, for
  /// a name given twice, for a size that is not the descriptor's, and as `byte_size` does.
  explicit in_memory_source(std::vector<in_memory_tensor> tensors);

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept { return descriptors_; }

  /// \pre `tensor` is an index into `tensors()` and the range lies inside it.
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) const {
    Expects(tensor < bytes_.size());
    const bytes_view from = bytes_[tensor];
    Expects(offset <= from.size() && destination.size() <= from.size() - offset);
    if (!destination.empty()) {
      std::memcpy(destination.data(), from.data() + offset, destination.size());
    }
  }

 private:
  std::vector<tensor_descriptor> descriptors_;
  std::vector<bytes_view> bytes_;
};

}  // namespace fsdpinit

#if FSDPINIT_DEFINES

namespace fsdpinit {

FSDPINIT_INLINE in_memory_source::in_memory_source(std::vector<in_memory_tensor> tensors) {
  descriptors_.reserve(tensors.size());
  bytes_.reserve(tensors.size());
  for (in_memory_tensor& tensor : tensors) {
    const std::uint64_t expected = byte_size(tensor.descriptor);
    if (tensor.bytes.size() != expected) {
      throw error(errc::invalid_argument, tensor.descriptor.name,
                  concat(to_string(tensor.descriptor.shape), " ", name(tensor.descriptor.dtype), " takes ", expected,
                         " bytes, but ", tensor.bytes.size(), " were given; give the whole tensor, densely packed"));
    }
    descriptors_.push_back(std::move(tensor.descriptor));
    bytes_.push_back(tensor.bytes);
  }
  std::map<std::string_view, std::size_t> by_name;
  for (std::size_t i = 0; i < descriptors_.size(); ++i) {
    if (!by_name.emplace(descriptors_[i].name, i).second) {
      throw error(errc::invalid_argument, descriptors_[i].name,
                  "the name was given twice; a state dict holds each name once");
    }
  }
}

}  // namespace fsdpinit

#endif
