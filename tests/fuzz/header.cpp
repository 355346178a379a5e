// A safetensors header of any bytes: an error of one line, or tensors that tile the file, whose own header says the same again.

#include "fuzz_target.hpp"
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/safetensors_header.hpp>
#include <fsdpinit/sources/safetensors_writer.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

using namespace fsdpinit;
using fuzz::require;

namespace {

void require_same_again(const safetensors_header& header) {
  std::vector<tensor_descriptor> tensors;
  for (const safetensors_entry& entry : header.tensors) {
    tensors.push_back(entry.descriptor);
  }
  const safetensors_layout written = lay_out_safetensors(tensors, header.metadata);
  const safetensors_header again = parse_safetensors_header(
      "again", std::string_view(written.header).substr(safetensors_prefix_bytes), written.file_bytes);
  require(again.metadata == header.metadata, "other metadata when written and read again");
  require(again.tensors.size() == tensors.size(), "other tensors when written and read again");
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    require(again.tensors[i].descriptor == tensors[i], "another tensor when written and read again");
  }
}

}  // namespace

/// The first two bytes are the size of the data, the rest is the JSON.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) {
    return 0;
  }
  const std::string_view json(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::uint64_t file_bytes = safetensors_prefix_bytes + json.size() + data[0] + 256U * data[1];
  try {
    const safetensors_header header = parse_safetensors_header("file", json, file_bytes);
    std::uint64_t at = safetensors_prefix_bytes + json.size();
    for (const safetensors_entry& entry : header.tensors) {
      require(entry.begin == at && entry.end >= at, "a hole or an overlap");
      require(entry.end - entry.begin == byte_size(entry.descriptor), "a span of another size than the tensor");
      at = entry.end;
    }
    require(at == file_bytes, "data that belong to no tensor");
    require_same_again(header);
  } catch (const error& rejected) {
    require(rejected.code() == errc::invalid_file, "a header that is rejected for another reason");
    fuzz::require_printable(rejected.what());
  }
  return 0;
}
