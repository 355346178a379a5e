#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/in_memory.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::testing_support {

using contents = std::vector<std::pair<std::string, std::string>>;

/// U8 tensors with the characters of a text each, `{name, content}`, in a source that owns them and cannot be copied.
class text_source {
 public:
  explicit text_source(contents tensors) : tensors_(std::move(tensors)) {
    std::vector<in_memory_tensor> all;
    for (const auto& [name, content] : tensors_) {
      all.push_back({{name, dtype::u8, {content.size()}}, std::as_bytes(std::span(content))});
    }
    source_ = in_memory_source(std::move(all));
  }
  text_source(text_source&&) = default;
  text_source& operator=(text_source&&) = delete;

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return source_.tensors(); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    source_.read(tensor, offset, destination);
  }

 private:
  contents tensors_;
  in_memory_source source_;
};

[[nodiscard]] inline text_source texts(contents tensors) { return text_source(std::move(tensors)); }

/// Every tensor of a source, whole: `{name, content}` in the source's order.
template <class S>
[[nodiscard]] contents contents_of(S& source) {
  contents out;
  const std::span<const tensor_descriptor> tensors = std::as_const(source).tensors();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    std::string content(byte_size(tensors[i]), '?');
    source.read(i, 0, std::as_writable_bytes(std::span(content)));
    out.emplace_back(tensors[i].name, std::move(content));
  }
  return out;
}

}  // namespace fsdpinit::testing_support
