#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/os/file.hpp>

#include <cerrno>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace fsdpinit {

namespace detail {

/// Writes all of `data`. `write` is called as write(2) is: a template parameter so that tests can fill the disk.
template <class Write>
void write_all(Write write, int descriptor, const std::string& path, bytes_view data) {
  while (!data.empty()) {
    const auto count = write(descriptor, data.data(), data.size());
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count <= 0) {  // 0 for a non-empty write is not progress: never spin on it
      throw io_error(path, "cannot be written", count < 0 ? errno : EIO);
    }
    data = data.subspan(static_cast<std::size_t>(count));
  }
}

/// Waits until what was written is on the disk. `sync` is called as fsync(2) is.
template <class Sync>
void sync_to_disk(Sync sync, int descriptor, const std::string& path) {
  while (sync(descriptor) != 0) {
    if (errno == EINTR) {
      continue;
    }
    if (errno == EINVAL || errno == EROFS) {  // this kind of file has no disk below it
      return;
    }
    throw io_error(path, "cannot be written", errno);
  }
}

}  // namespace detail

/// A new file, written from front to back. It is complete only after `close()`: a file that goes out of scope before,
/// because of an exception say, is removed. Only `sync()` waits for the disk.
class output_file {
 public:
  /// \throws error{io} with errno; EEXIST where the path exists, a dangling link included: nothing is ever overwritten.
  explicit output_file(std::string path) : path_(std::move(path)) {
    do {
      descriptor_ =
          detail::file_descriptor(::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0666));
    } while (!descriptor_ && errno == EINTR);
    if (!descriptor_) {
      throw detail::io_error(path_, "cannot be created", errno);
    }
  }

  output_file(output_file&&) noexcept = default;
  output_file& operator=(output_file&&) = delete;
  output_file(const output_file&) = delete;
  output_file& operator=(const output_file&) = delete;
  ~output_file() {
    if (descriptor_) {
      ::unlink(path_.c_str());
    }
  }

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

  /// Appends all of `data`; short writes and EINTR are retried. \throws error{io} with errno (a full disk, say).
  void write_all(bytes_view data) { detail::write_all(::write, descriptor_.number(), path_, data); }

  /// Waits for the disk, as a file should that is then moved over another, or that nobody can make again: after a power
  /// cut it is whole. \throws error{io} where the disk refuses now what the page cache had taken.
  void sync() { detail::sync_to_disk(::fsync, descriptor_.number(), path_); }

  /// Ends the file. \throws error{io} where the system reports only now that something was not written (network file
  /// systems, quotas); the file is removed then.
  void close() {
    if (const int code = descriptor_.close(); code != 0) {
      ::unlink(path_.c_str());
      throw detail::io_error(path_, "cannot be written", code);
    }
  }

 private:
  std::string path_;
  detail::file_descriptor descriptor_;
};

}  // namespace fsdpinit
