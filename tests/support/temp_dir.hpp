#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <ios>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace fsdpinit::testing_support {

/// A new folder under the system's folder for temporary files, gone with the object.
class temp_dir {
 public:
  temp_dir() : path_((std::filesystem::temp_directory_path() / "fsdpinit.XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) {
      throw std::runtime_error("mkdtemp " + path_ + " failed");
    }
  }
  temp_dir(const temp_dir&) = delete;
  temp_dir& operator=(const temp_dir&) = delete;
  ~temp_dir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

  /// Creates or replaces the content of a file; returns its path.
  std::string write(std::string_view name, std::string_view content) const {
    std::string path = *this / name;
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.exceptions(std::ios::badbit | std::ios::failbit);  // a test that cannot write must not go on
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
    return path;
  }

 private:
  std::string path_;
};

/// The whole content of a file that knows its size (those of /proc do not).
[[nodiscard]] inline std::string content_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    throw std::runtime_error("cannot open " + path);
  }
  std::string content(std::filesystem::file_size(path), '\0');
  in.read(content.data(), static_cast<std::streamsize>(content.size()));
  if (!in) {
    throw std::runtime_error("cannot read " + path);
  }
  return content;
}

}  // namespace fsdpinit::testing_support
