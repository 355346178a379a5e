#include "output_folder.hpp"
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/os/file.hpp>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

namespace fsdpinit::tool {

namespace fs = std::filesystem;

output_folder::output_folder(unfinished& outputs, const std::string& path)
    : outputs_(outputs), path_(fs::absolute(path).lexically_normal()) {
  if (!path_.has_filename()) {
    path_ = path_.parent_path();  // "folder/"
  }
  std::error_code failed;
  const fs::file_status status = fs::status(path_, failed);
  existed_ = fs::exists(status);
  if (!existed_ && fs::is_symlink(fs::symlink_status(path_, failed))) {
    throw error(errc::io, path, "is a dangling link; remove it, or give another folder");
  }
  if (existed_ && !fs::is_directory(status)) {
    throw error(errc::invalid_argument, path, "is not a folder; give one that is empty or does not exist");
  }
  if (!existed_ && status.type() != fs::file_type::not_found) {
    throw detail::io_error(path, "cannot be looked at", failed.value());
  }
  if (!existed_) {
    make_parents();
    make_hidden(path_.parent_path() / ("." + path_.filename().string()));
    return;
  }
  const fs::directory_iterator first(path_, failed);
  if (failed) {
    throw detail::io_error(path, "the folder cannot be read", failed.value());
  }
  if (first != fs::directory_iterator()) {
    throw error(errc::invalid_argument, path,
                concat("the folder is not empty, it holds ", printable(first->path().filename().string()),
                       "; give one that is empty or does not exist"));
  }
  make_hidden(path_ / ".fsdpinit");
}

output_folder::~output_folder() {
  if (committed_) {
    return;
  }
  outputs_.remove(hidden_);
  for (auto parent = made_parents_.rbegin(); parent != made_parents_.rend(); ++parent) {
    ::rmdir(parent->c_str());  // only if nothing else came to be in it
  }
}

void output_folder::make_parents() {
  std::vector<fs::path> missing;
  for (fs::path parent = path_.parent_path(); !fs::exists(parent); parent = parent.parent_path()) {
    missing.push_back(parent);
  }
  std::reverse(missing.begin(), missing.end());
  for (const fs::path& parent : missing) {
    if (::mkdir(parent.c_str(), 0777) == 0) {
      made_parents_.push_back(parent);
    } else if (errno != EEXIST) {
      const int code = errno;
      for (auto made = made_parents_.rbegin(); made != made_parents_.rend(); ++made) {
        ::rmdir(made->c_str());
      }
      throw detail::io_error(parent.string(), "the folder cannot be created", code);
    }
  }
}

void output_folder::make_hidden(const fs::path& stem) {
  hidden_ = stem;
  hidden_ += ".partial-" + std::to_string(::getpid());
  if (::mkdir(hidden_.c_str(), 0777) != 0) {  // not mkdtemp: what it becomes has the permissions that others have
    const int code = errno;
    for (auto made = made_parents_.rbegin(); made != made_parents_.rend(); ++made) {
      ::rmdir(made->c_str());
    }
    throw detail::io_error((existed_ ? path_ : path_.parent_path()).string(), "cannot be written to", code);
  }
  outputs_.add(hidden_);
}

void output_folder::move_up() const {
  std::vector<fs::path> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(hidden_)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());  // an index comes after the files that it names
  std::vector<fs::path> moved;
  for (const fs::path& name : names) {
    std::error_code failed;
    fs::rename(hidden_ / name, path_ / name, failed);
    if (failed) {
      for (const fs::path& back : moved) {
        std::error_code ignored;
        fs::remove(path_ / back, ignored);
      }
      throw detail::io_error((path_ / name).string(), "cannot be put in place", failed.value());
    }
    moved.push_back(name);
  }
  std::error_code ignored;
  fs::remove(hidden_, ignored);
}

void output_folder::commit() {
  outputs_.finish(hidden_, [&] {
    if (existed_) {
      move_up();
    } else if (::rename(hidden_.c_str(), path_.c_str()) != 0) {
      throw detail::io_error(path_.string(), "cannot be put in place", errno);
    }
  });
  committed_ = true;
}

}  // namespace fsdpinit::tool
