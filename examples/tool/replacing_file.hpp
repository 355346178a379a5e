#pragma once

#include "unfinished.hpp"

#include <filesystem>
#include <string>
#include <string_view>

namespace fsdpinit::tool {

/// A text file that takes the place of what was there, in one step and only when all of it is written. What is no
/// regular file (/dev/stdout, a FIFO) is written to directly.
class replacing_file {
 public:
  /// Finds out now whether it can be written, before anything expensive happens.
  /// \throws error{io, invalid_argument} naming the file.
  replacing_file(unfinished& outputs, const std::string& path);
  replacing_file(const replacing_file&) = delete;
  replacing_file& operator=(const replacing_file&) = delete;
  ~replacing_file();

  /// Writes all of it, still under another name. Once. \throws error{io}.
  void write(std::string_view text);
  /// \pre written. \throws error{io}.
  void commit();

 private:
  unfinished& outputs_;
  std::string given_;
  std::filesystem::path path_;
  std::filesystem::path hidden_;  // empty: written to directly
  bool committed_ = false;
};

}  // namespace fsdpinit::tool
