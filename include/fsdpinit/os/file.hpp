#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/os/page_cache.hpp>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

namespace fsdpinit::detail {

/// A POSIX file descriptor and nothing else: moved, never copied, closed at the end. -1 is none.
class file_descriptor {
 public:
  file_descriptor() = default;
  explicit file_descriptor(int number) noexcept : number_(number) {}
  file_descriptor(file_descriptor&& other) noexcept : number_(other.release()) {}
  file_descriptor& operator=(file_descriptor&& other) noexcept {
    if (this != &other) {
      close();
      number_ = other.release();
    }
    return *this;
  }
  file_descriptor(const file_descriptor&) = delete;
  file_descriptor& operator=(const file_descriptor&) = delete;
  ~file_descriptor() { close(); }

  [[nodiscard]] int number() const noexcept { return number_; }
  [[nodiscard]] explicit operator bool() const noexcept { return number_ >= 0; }
  [[nodiscard]] int release() noexcept { return std::exchange(number_, -1); }

  /// 0, or the errno that close(2) reported. Not retried on EINTR: Linux has closed the descriptor by then.
  int close() noexcept {
    const int number = release();
    return number >= 0 && ::close(number) != 0 && errno != EINTR ? errno : 0;
  }

 private:
  int number_ = -1;
};

/// What the operating system says about an errno: `No space left on device`.
[[nodiscard]] inline std::string system_text(int code) { return std::generic_category().message(code); }

/// `<path>: <what>: <system's text>`, code `errc::io`, with the errno as native code.
[[nodiscard]] inline error io_error(std::string_view path, std::string_view what, int code) {
  return {errc::io, path, concat(what, ": ", system_text(code)), {.native_code = code}};
}

}  // namespace fsdpinit::detail

/// \file
/// A file that is only read, with pread and never through a mapping: the memory of a load stays what the plan says, and
/// a file that is cut short underneath is an error instead of a SIGBUS.

namespace fsdpinit {

namespace detail {

using file_status = struct ::stat;

/// What a path leads to, links followed. \throws error{io} if it leads nowhere, saying whether a link dangles.
[[nodiscard]] inline file_status status_of(const std::string& path) {
  if (path.find('\0') != std::string::npos) {
    throw error(errc::invalid_argument, path, "the path holds a NUL character, which no file name can; check the path");
  }
  file_status status{};
  if (::stat(path.c_str(), &status) == 0) {
    return status;
  }
  const int code = errno;
  file_status link{};
  if (code == ENOENT && ::lstat(path.c_str(), &link) == 0 && S_ISLNK(link.st_mode)) {
    throw error(errc::io, path, "is a dangling link, its target does not exist; restore the target or download again",
                {.native_code = code});
  }
  if (code == ENOENT) {
    throw error(errc::io, path, "no such file or folder; check the path", {.native_code = code});
  }
  throw io_error(path, "cannot be opened", code);
}

/// `a folder`, `a FIFO`; for a regular file too.
[[nodiscard]] inline std::string_view kind_of(const file_status& status) noexcept {
  switch (status.st_mode & S_IFMT) {
    case S_IFREG:
      return "a regular file";
    case S_IFDIR:
      return "a folder";
    case S_IFIFO:
      return "a FIFO";
    case S_IFSOCK:
      return "a socket";
    case S_IFCHR:
      return "a character device";
    case S_IFBLK:
      return "a block device";
    default:
      return "a special file";
  }
}

inline void expect_regular(const std::string& path, const file_status& status) {
  if (!S_ISREG(status.st_mode)) {
    throw error(errc::invalid_file, path, concat("is ", kind_of(status), "; give a regular file, or a link to one"));
  }
}

/// Fills `destination` from `offset` on. `pread` is called as pread(2) is, (descriptor, to, count, offset) -> count or
/// -1 with errno: a template parameter so that tests can cut reads short and interrupt them.
template <class Pread>
void read_exact_at(Pread pread, int descriptor, const std::string& path, std::uint64_t offset,
                   mutable_bytes destination) {
  while (!destination.empty()) {
    const auto count = pread(descriptor, destination.data(), destination.size(), static_cast<off_t>(offset));
    if (count < 0) {
      const int code = errno;
      if (code == EINTR) {
        continue;
      }
      throw io_error(path, concat("reading ", destination.size(), " bytes at ", offset, " failed"), code);
    }
    if (count == 0) {
      throw error(errc::invalid_file, path,
                  concat("the file shrank while it was read: it ends at or before byte ", offset, ", ",
                         destination.size(), " more were expected; load again once nothing writes to it"));
    }
    destination = destination.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

}  // namespace detail

/// A regular file opened for reading, as it was when it was opened.
///
/// Links to regular files are followed (Hugging Face caches are made of them). Anything else, a FIFO above all, is
/// refused without being opened, so that nothing blocks.
class input_file {
 public:
  /// \throws error{io} with errno where the path leads nowhere or may not be read; error{invalid_file} where it leads
  /// to something that is no regular file.
  explicit input_file(std::string path, page_cache pages = page_cache::keep) : path_(std::move(path)) {
    descriptor_ = opened(path_);
    const detail::file_status status = status_of(descriptor_);
    device_ = status.st_dev;
    inode_ = status.st_ino;
    size_ = static_cast<std::uint64_t>(status.st_size);
    modified_ = status.st_mtim;
    linked_ = status.st_nlink > 0;
    if (pages == page_cache::drop_behind) {
      behind_ = std::make_unique<detail::dropping_behind>(descriptor_.number());
    }
  }
  input_file(input_file&&) noexcept = default;
  input_file& operator=(input_file&&) noexcept = default;
  ~input_file() { behind_.reset(); }

  /// Closes the file until `open_again`; nothing is read meanwhile.
  void let_go() noexcept {
    if (behind_ != nullptr) {
      behind_->leave();
    }
    descriptor_.close();
  }
  /// Opens it again, by its path or by another that leads to it.
  /// \throws as the constructor does; error{invalid_file} where another file is there by now, or it has changed. Then it stays closed.
  void open_again(const std::string& path) {
    detail::file_descriptor descriptor;
    try {
      descriptor = opened(path);
    } catch (const error& failure) {
      if (failure.native_code() == ENOENT) {
        fail_replaced();
      }
      throw;
    }
    const detail::file_status now = status_of(descriptor);
    if (now.st_dev != device_ || now.st_ino != inode_) {
      fail_replaced();
    }
    require_unchanged(now);
    descriptor_ = std::move(descriptor);
    if (behind_ != nullptr) {
      behind_->go_on(descriptor_.number());
    }
  }

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// Bytes, when it was opened.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  /// Fills `destination` with the bytes from `offset` on. Short reads and EINTR are retried.
  /// \throws error{invalid_file} where the file ends before; error{io} with errno where the system refuses.
  void read_exact_at(std::uint64_t offset, mutable_bytes destination) const {
    detail::read_exact_at(::pread, descriptor_.number(), path_, offset, destination);
    passed(offset, destination.size());
  }

  /// The same, into the destinations one after the other: one system call for each 64 of them.
  void read_exact_into(std::uint64_t offset, std::span<const mutable_bytes> destinations) const {
    const std::uint64_t begin = offset;
    std::array<::iovec, 64> parts{};
    while (!destinations.empty()) {
      const auto now = destinations.first(smaller(destinations.size(), parts.size()));
      destinations = destinations.subspan(now.size());
      for (std::size_t i = 0; i < now.size(); ++i) {
        parts[i] = {.iov_base = now[i].data(), .iov_len = now[i].size()};
      }
      const ::ssize_t count =
          ::preadv(descriptor_.number(), parts.data(), static_cast<int>(now.size()), static_cast<off_t>(offset));
      // What that has left is read one by one, and fails there if it has to.
      std::uint64_t done = count < 0 ? 0 : static_cast<std::uint64_t>(count);
      for (const mutable_bytes each : now) {
        const std::uint64_t here = smaller(done, each.size());
        detail::read_exact_at(::pread, descriptor_.number(), path_, offset + here, each.subspan(here));
        done -= here;
        offset += each.size();
      }
    }
    passed(begin, offset - begin);
  }

  /// Holds what was read against what was opened: one fstat, well under a microsecond on a local disk.
  /// \throws error{invalid_file} if size or modification time differ, or if the file was deleted or replaced.
  void check_unchanged() const { require_unchanged(status_of(descriptor_)); }

 private:
  void passed(std::uint64_t offset, std::uint64_t bytes) const {
    if (behind_ != nullptr) {
      behind_->passed(offset, offset + bytes);
    }
  }

  [[nodiscard]] detail::file_descriptor opened(const std::string& path) const {
    detail::expect_regular(path_, detail::status_of(path));
    // The path may lead elsewhere by now: O_NONBLOCK keeps a FIFO from blocking, and fstat asks again.
    detail::file_descriptor descriptor;
    do {
      descriptor = detail::file_descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    } while (!descriptor && errno == EINTR);
    if (!descriptor) {
      const int code = errno;
      throw detail::io_error(path_, code == EMFILE ? "cannot be opened, raise `ulimit -n`" : "cannot be opened", code);
    }
    detail::expect_regular(path_, status_of(descriptor));
    // Advice: a kernel that does not take it reads all the same.
    static_cast<void>(::posix_fadvise(descriptor.number(), 0, 0, POSIX_FADV_SEQUENTIAL));
    return descriptor;
  }

  [[nodiscard]] detail::file_status status_of(const detail::file_descriptor& descriptor) const {
    detail::file_status status{};
    if (::fstat(descriptor.number(), &status) != 0) {
      throw detail::io_error(path_, "fstat failed", errno);
    }
    return status;
  }

  void require_unchanged(const detail::file_status& now) const {
    const auto size = static_cast<std::uint64_t>(now.st_size);
    if (size != size_) {
      fail_changed(concat("the file ", size < size_ ? "shrank" : "grew", " from ", size_, " to ", size, " bytes"));
    }
    if (now.st_mtim.tv_sec != modified_.tv_sec || now.st_mtim.tv_nsec != modified_.tv_nsec) {
      fail_changed("the file was modified");
    }
    // The descriptor still reads the old bytes, but a rank that opens the path by now reads others.
    if (linked_ && now.st_nlink == 0) {
      fail_replaced();
    }
  }

  [[noreturn]] void fail_replaced() const { fail_changed("the file was deleted or replaced"); }
  [[noreturn]] void fail_changed(std::string_view what) const {
    throw error(errc::invalid_file, path_, concat(what, " while it was read; load again once nothing writes to it"));
  }

  std::string path_;
  std::unique_ptr<detail::dropping_behind> behind_;  // where pages are dropped; gone before the descriptor is
  detail::file_descriptor descriptor_;
  ::dev_t device_ = 0;
  ::ino_t inode_ = 0;
  std::uint64_t size_ = 0;
  std::timespec modified_{};
  bool linked_ = true;
};

}  // namespace fsdpinit
