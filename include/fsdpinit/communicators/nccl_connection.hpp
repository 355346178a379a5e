#pragma once

#include <fsdpinit/communicators/nccl_api.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/attempt.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>

#include <cstddef>
#include <cstring>
#include <exception>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// One rank's end of an NCCL communicator, made and watched with the help of a host channel: NCCL itself cannot tell ranks
/// of another's failure before they wait for it, and after one it has to be made anew.
template <class Nccl, CudaApi Cuda, AlertingCommunicator Host>
class nccl_connection {
 public:
  /// Not connected yet. `host` outlives it.
  nccl_connection(Host& host, int device, Nccl nccl, Cuda cuda, double deadline_seconds)
      : host_(host), device_(device), nccl_(std::move(nccl)), cuda_(std::move(cuda)), seconds_(deadline_seconds) {}
  nccl_connection(const nccl_connection&) = delete;
  nccl_connection& operator=(const nccl_connection&) = delete;
  ~nccl_connection() {
    if (open_ && std::uncaught_exceptions() == 0) {
      finalize();
    }
    close();
  }

  [[nodiscard]] bool open() const noexcept { return open_; }
  [[nodiscard]] Host& host() const noexcept { return host_; }

  /// Collective; nothing to do where it is open. Ends in an agreement: all ranks are connected, or none.
  /// \throws error{communication}, error{device}, error{peer_lost}; the ranks rearm the host channel before they try again.
  void connect() {
    if (open_) {
      return;
    }
    typename Nccl::unique_id id{};
    std::vector<std::byte> bytes(sizeof id);
    agreed(host_, seconds_, [&] {
      if (host_.rank() == 0) {
        require(nccl_.make_id(&id), "make the id of a communicator");
        std::memcpy(bytes.data(), &id, sizeof id);
      }
    });
    bytes = broadcast_bytes(host_, std::move(bytes), 0, deadline::after(seconds_));
    std::memcpy(&id, bytes.data(), sizeof id);
    const std::optional<error> mine = attempt([&] {
      const cuda_device_guard<Cuda> here(cuda_, device_);
      const int code = nccl_.connect(&comm_, static_cast<int>(host_.size()), id, static_cast<int>(host_.rank()));
      made_ = code == Nccl::success || code == Nccl::in_progress;
      settle(code, "connect the ranks", deadline::after(seconds_));
    });
    if (mine) {
      host_.interrupt();  // the others wait for this rank
    }
    try {
      agree(host_, mine, deadline::after(seconds_));
    } catch (...) {
      close();
      throw;
    }
    open_ = true;
  }

  /// What is under way ends, done or not, and nothing more can be started.
  void close() noexcept {
    open_ = false;
    if (std::exchange(made_, false)) {
      nccl_.abort(comm_);
    }
  }

  /// Calls that move together: `calls(nccl, comm)` makes them, and returns the code of the first that failed. Returns once all are on
  /// their streams, for which the ranks may have to meet. \throws error{communication}, {interrupted}, {peer_lost}
  template <class Calls>
  void issue(std::string_view what, Calls&& calls) {
    require(nccl_.group_start(), what);
    const int inside = calls(nccl_, comm_);
    const int end = nccl_.group_end();  // also where one failed: the thread's next calls would be part of the group
    settle(is_accepted(inside) ? end : inside, what, deadline::after(seconds_));
  }
  [[nodiscard]] static bool is_accepted(int code) noexcept {
    return code == Nccl::success || code == Nccl::in_progress;
  }

  /// One look at what may have happened while a rank waits. \throws error{communication}, {interrupted}, {peer_lost}
  void watch(deadline limit) {
    if (host_.interrupted()) {
      throw error(errc::interrupted, "", "interrupted by the failure of another rank");
    }
    if (const int code = progress(); !is_accepted(code)) {
      require(code, "go on");
    }
    if (limit.passed()) {
      throw error(
          errc::peer_lost, "",
          "a peer did not arrive within the deadline; look at what the other ranks do, or raise deadline_seconds");
    }
  }

 private:
  static constexpr double finalize_seconds = 10;

  [[nodiscard]] int progress() noexcept {
    int code = Nccl::success;
    const int asked = nccl_.progress(comm_, &code);
    return asked == Nccl::success ? code : asked;
  }
  void require(int code, std::string_view what) {
    if (code != Nccl::success) {
      throw error(code == Nccl::peer_gone ? errc::peer_lost : errc::communication, "NCCL",
                  concat("cannot ", what, ": ", nccl_.text_of(code)), {.native_code = code});
    }
  }
  void settle(int code, std::string_view what, deadline limit) {
    poll_interval interval;
    while (code == Nccl::in_progress) {
      watch(limit);
      interval.wait();
      code = progress();
    }
    require(code, what);
  }
  /// Leaves as NCCL wishes, if the others come along.
  void finalize() noexcept {
    poll_interval interval;
    const deadline limit = deadline::after(finalize_seconds);
    int code = nccl_.finalize(comm_);
    while (code == Nccl::in_progress && !limit.passed()) {
      interval.wait();
      code = progress();
    }
    if (code == Nccl::success) {
      made_ = false;
      nccl_.destroy(comm_);
    }
  }

  Host& host_;
  int device_;
  Nccl nccl_;
  Cuda cuda_;
  double seconds_;
  typename Nccl::comm comm_{};
  bool made_ = false;  // there is a communicator, connected or not
  bool open_ = false;
};

}  // namespace fsdpinit::detail
