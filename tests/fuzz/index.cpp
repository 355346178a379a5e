// A Hugging Face index of any bytes: an error of one line, or files with plain names, each tensor in one of them.

#include "fuzz_target.hpp"
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/sources/hf_index.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>

using namespace fsdpinit;
using fuzz::require;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    std::set<std::string> files;
    std::set<std::string> tensors;
    for (const hf_index_file& file :
         parse_hf_index("index", std::string_view(reinterpret_cast<const char*>(data), size))) {
      require(file.name.find('/') == std::string::npos && file.name.find('\0') == std::string::npos,
              "a file elsewhere");
      require(!file.name.empty() && file.name != "." && file.name != "..", "a file that is a folder");
      require(files.insert(file.name).second, "a file that is named twice");
      require(std::is_sorted(file.tensors.begin(), file.tensors.end()), "tensors out of order");
      for (const std::string& tensor : file.tensors) {
        require(tensors.insert(tensor).second, "a tensor that is in two files");
      }
    }
  } catch (const error& rejected) {
    require(rejected.code() == errc::invalid_file, "an index that is rejected for another reason");
    fuzz::require_printable(rejected.what());
  }
  return 0;
}
