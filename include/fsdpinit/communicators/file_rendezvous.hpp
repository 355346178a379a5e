#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/os/file.hpp>
#include <fsdpinit/os/output_file.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <sys/stat.h>
#include <unistd.h>

namespace fsdpinit {

/// Ranks that share a folder meet by a file in it: rank 0 writes it, the others wait until it is there. A Rendezvous.
///
/// `path` is a fresh one for each job, the same on every rank: with the job's number in it, say. The file appears whole, under its
/// name, or not at all. Rank 0 never replaces one that is there, and removes its own when this object goes: when all have connected.
/// One that a killed job left stops rank 0 at once; ranks that read it before do not connect, and say so at their deadline. On
/// network file systems a new file may take a minute to be seen by other nodes.
class file_rendezvous {
 public:
  explicit file_rendezvous(std::string path) : path_(std::move(path)) {}
  file_rendezvous(const file_rendezvous&) = delete;
  file_rendezvous& operator=(const file_rendezvous&) = delete;
  ~file_rendezvous() {
    if (published_) {
      ::unlink(path_.c_str());
    }
  }

  [[nodiscard]] const std::string& path() const noexcept { return path_; }

  /// \throws error{io} with errno, on rank 0 also where the path exists; on the others error{peer_lost} where it is not there by the
  /// deadline, error{invalid_file} where it is something else. All name path and rank.
  void operator()(mutable_bytes id, std::size_t rank, deadline limit) {
    try {
      rank == 0 ? publish(id) : await(id, limit);
    } catch (const error& caught) {
      throw caught.reported_by(static_cast<std::int32_t>(rank));
    }
  }

 private:
  /// What the file begins with, in front of the id.
  static constexpr std::string_view mark = "fsdpinit rendezvous 1\n";
  static constexpr std::timespec pause{.tv_sec = 0, .tv_nsec = 10'000'000};

  void publish(bytes_view id) {
    const std::string unfinished = path_ + ".unfinished";  // also keeps others who would publish here away
    std::optional<output_file> out;
    try {
      out.emplace(unfinished);
    } catch (const error& caught) {
      if (caught.native_code() == EEXIST) {
        fail_used(unfinished);
      }
      throw;
    }
    struct ::stat there {};
    if (::lstat(path_.c_str(), &there) == 0) {
      fail_used(path_);
    }
    out->write_all({reinterpret_cast<const std::byte*>(mark.data()), mark.size()});
    out->write_all(id);
    out->close();
    if (std::rename(unfinished.c_str(), path_.c_str()) != 0) {
      const int code = errno;
      ::unlink(unfinished.c_str());
      throw detail::io_error(path_, "cannot be created", code);
    }
    published_ = true;
  }
  [[noreturn]] static void fail_used(const std::string& path) {
    throw error(errc::io, path,
                "is there already: another job meets here, or one was killed here; give each job a path of its own, or "
                "remove the file",
                {.native_code = EEXIST});
  }

  void await(mutable_bytes id, deadline limit) const {
    for (;;) {
      const std::optional<std::uint64_t> found = read(id);
      if (found == mark.size() + id.size()) {
        return;
      }
      if (limit.ended()) {
        throw error(errc::interrupted, path_, "this rank was stopped while it waited for the file");
      }
      if (limit.passed()) {
        throw error(errc::peer_lost, path_,
                    found ? concat("has ", *found, " bytes where an id of ", mark.size() + id.size(),
                                   " was waited for; remove the file, and give each job a path of its own")
                          : std::string("rank 0 did not write this file within the deadline; look at what it does, "
                                        "and that this folder is the same on all nodes"));
      }
      nanosleep(&pause, nullptr);
    }
  }

  /// \return the bytes that the file has, nothing where it is not there. One that is too short may be on its way to this node.
  [[nodiscard]] std::optional<std::uint64_t> read(mutable_bytes id) const {
    try {
      const input_file in(path_);
      if (in.size() > mark.size() + id.size()) {
        fail_foreign();
      }
      if (in.size() == mark.size() + id.size()) {
        char begin[mark.size()];
        in.read_exact_at(0, std::as_writable_bytes(std::span(begin)));
        if (std::string_view(begin, mark.size()) != mark) {
          fail_foreign();
        }
        in.read_exact_at(mark.size(), id);
      }
      return in.size();
    } catch (const error& caught) {
      if (caught.native_code() != ENOENT && caught.native_code() != ESTALE) {
        throw;
      }
      return std::nullopt;
    }
  }
  [[noreturn]] void fail_foreign() const {
    throw error(errc::invalid_file, path_,
                "is no file by which ranks of this build meet; give each job a path of its own, where nothing else is");
  }

  std::string path_;
  bool published_ = false;
};

}  // namespace fsdpinit
