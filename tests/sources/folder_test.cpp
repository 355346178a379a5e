#include <fsdpinit/sources/safetensors.hpp>
#include <support/temp_dir.hpp>

#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <vector>

#include <dirent.h>
#include <dlfcn.h>

/// \file
/// Folders that are read while errno is not 0.

namespace {

bool readdir_leaves_errno = false;

}  // namespace

/// The C library's; if asked to, it does what POSIX allows: it leaves an errno behind although it has succeeded.
extern "C" dirent* readdir(DIR* folder) {
  static const auto real = reinterpret_cast<dirent* (*)(DIR*)>(dlsym(RTLD_NEXT, "readdir"));
  dirent* const entry = real(folder);
  if (readdir_leaves_errno && entry != nullptr) {
    errno = EAGAIN;
  }
  return entry;
}

namespace fsdpinit::folder_test {
namespace {

TEST(names_in, are_all_found_whatever_errno_was_between_two_of_them) {
  const testing_support::temp_dir folder;
  folder.write("b", "");
  folder.write("a", "");
  readdir_leaves_errno = true;
  const std::vector<std::string> names = detail::names_in(folder.path());
  readdir_leaves_errno = false;
  EXPECT_EQ(names, (std::vector<std::string>{"a", "b"}));
}

}  // namespace
}  // namespace fsdpinit::folder_test
