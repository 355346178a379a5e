#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/in_memory.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::testing_support {

/// A VectoredSource: the tensors of another one after the other in a file with a header of 10 bytes.
class one_file_source {
 public:
  explicit one_file_source(in_memory_source inner) : inner_(std::move(inner)), begins_{10} {
    for (const tensor_descriptor& tensor : inner_.tensors()) {
      begins_.push_back(begins_.back() + byte_size(tensor));
    }
  }

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return inner_.tensors(); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    inner_.read(tensor, offset, destination);
  }
  [[nodiscard]] std::size_t file_count() const { return 1; }
  [[nodiscard]] file_position position_of(std::size_t tensor) const { return {.file = 0, .offset = begins_[tensor]}; }
  void read_file(std::size_t /*file*/, std::uint64_t offset, mutable_bytes destination) {
    for (std::size_t i = 0; i + 1 < begins_.size(); ++i) {
      const std::uint64_t from = std::max(offset, begins_[i]);
      const std::uint64_t to = std::min(offset + destination.size(), begins_[i + 1]);
      if (from < to) {
        inner_.read(i, from - begins_[i], destination.subspan(from - offset, to - from));
      }
    }
  }
  void read_file_into(std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> destinations) {
    for (const mutable_bytes each : destinations) {
      read_file(file, offset, each);
      offset += each.size();
    }
  }

 private:
  in_memory_source inner_;
  std::vector<std::uint64_t> begins_;  // of tensor i, and of what would follow
};

}  // namespace fsdpinit::testing_support
