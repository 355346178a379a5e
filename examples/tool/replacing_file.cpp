#include "replacing_file.hpp"
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/os/file.hpp>
#include <fsdpinit/os/output_file.hpp>

#include <cerrno>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

namespace fsdpinit::tool {

namespace fs = std::filesystem;

replacing_file::replacing_file(unfinished& outputs, const std::string& path) : outputs_(outputs), given_(path) {
  std::error_code failed;
  path_ = fs::absolute(path);
  const fs::file_status status = fs::status(path_, failed);
  if (fs::is_directory(status)) {
    throw error(errc::invalid_argument, path, "is a folder; give the name of a file");
  }
  if (fs::exists(status)) {
    if (::access(path_.c_str(), W_OK) != 0) {
      throw detail::io_error(path, "cannot be written", errno);
    }
    const fs::path target = fs::canonical(path_, failed);  // a link stays a link
    if (!fs::is_regular_file(status) || failed) {          // (/dev/stdout may lead to a file that has no name)
      return;
    }
    path_ = target;
  } else if (fs::is_symlink(fs::symlink_status(path_, failed))) {
    throw error(errc::io, path, "is a dangling link; remove it, or give another file");
  }
  hidden_ = path_.parent_path() / ("." + path_.filename().string() + ".partial-" + std::to_string(::getpid()));
  try {
    output_file(hidden_.string()).close();
  } catch (const error& refused) {
    throw detail::io_error(path, "cannot be written", refused.native_code());
  }
  outputs_.add(hidden_);
}

replacing_file::~replacing_file() {
  if (!committed_ && !hidden_.empty()) {
    outputs_.remove(hidden_);
  }
}

void replacing_file::write(std::string_view text) {
  const fs::path& target = hidden_.empty() ? path_ : hidden_;
  detail::file_descriptor file(::open(target.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
  if (!file) {
    throw detail::io_error(given_, "cannot be written", errno);
  }
  detail::write_all(::write, file.number(), given_, std::as_bytes(std::span(text)));
  detail::sync_to_disk(::fsync, file.number(), given_);
  if (const int code = file.close(); code != 0) {
    throw detail::io_error(given_, "cannot be written", code);
  }
}

void replacing_file::commit() {
  if (!hidden_.empty()) {
    outputs_.finish(hidden_, [&] {
      if (::rename(hidden_.c_str(), path_.c_str()) != 0) {
        throw detail::io_error(given_, "cannot be put in place", errno);
      }
    });
  }
  committed_ = true;
}

}  // namespace fsdpinit::tool
