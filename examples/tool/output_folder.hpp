#pragma once

#include "unfinished.hpp"

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit::tool {

/// A folder that is filled completely or not at all. It must be empty or absent, and its parents may be absent too.
///
/// Files are written to a hidden folder: beside an absent one, which it becomes in one step; inside an empty one (which
/// may be a mount point, or where the shell is), from where they are moved up one by one.
class output_folder {
 public:
  /// \throws error{io, invalid_argument} naming the folder: not empty, no folder, cannot be created.
  output_folder(unfinished& outputs, const std::string& path);
  output_folder(const output_folder&) = delete;
  output_folder& operator=(const output_folder&) = delete;
  /// Removes all of it unless it was committed, parents that were made for it included.
  ~output_folder();

  /// The folder to write to until the commit.
  [[nodiscard]] const std::filesystem::path& hidden() const noexcept { return hidden_; }
  /// Where to write the file that is to be called `name`.
  [[nodiscard]] std::string place_of(std::string_view name) const { return (hidden_ / name).string(); }
  /// \throws error{io}.
  void commit();

 private:
  void make_parents();
  void make_hidden(const std::filesystem::path& stem);
  void move_up() const;

  unfinished& outputs_;
  std::filesystem::path path_;
  std::filesystem::path hidden_;
  std::vector<std::filesystem::path> made_parents_;  // outermost first
  bool existed_ = false;
  bool committed_ = false;
};

}  // namespace fsdpinit::tool
