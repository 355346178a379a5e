#pragma once

#include <fsdpinit/communicators/nccl_api.hpp>
#include <fsdpinit/communicators/nccl_link.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/memory/cuda_api.hpp>

#include <cstddef>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// One rank's end of an NCCL communicator, made and watched with the help of a control channel: NCCL itself cannot tell ranks
/// of another's failure before they wait for it, and after one it has to be made anew.
template <class Nccl, CudaApi Cuda, AlertingControl Host>
class nccl_connection {
 public:
  /// Not connected yet. `host` outlives it.
  nccl_connection(Host& host, int device, Nccl nccl, Cuda cuda, double deadline_seconds)
      : host_(host), link_(device, std::move(nccl), std::move(cuda)), seconds_(deadline_seconds) {}

  [[nodiscard]] bool open() const noexcept { return link_.open(); }
  [[nodiscard]] bool borrowed() const noexcept { return link_.borrowed(); }
  [[nodiscard]] Host& host() const noexcept { return host_; }

  /// Collective: takes the ranks' communicator of somebody else. Ends in an agreement.
  /// \throws error{communication}, error{invalid_argument} where it is not of these ranks
  void borrow(typename Nccl::comm theirs) {
    agreed(host_, seconds_, [&] { link_.borrow(std::move(theirs), host_.rank(), host_.size()); });
  }
  /// What looks from now on in waits that take no deadline, until it is called with nullptr.
  void look_with(wait_hook* hook) noexcept { hook_ = hook; }
  /// An attempt has failed: some ranks may have closed what they borrowed, and others had no need to. `connect()` settles it.
  void doubt() noexcept { doubted_ = borrowed(); }

  /// Collective; nothing to do where it is open. Ends in an agreement: all ranks are connected, or none.
  /// \throws error{communication}, error{device}, error{peer_lost}; the ranks rearm the host channel before they try again.
  void connect() {
    if (doubted_) {
      require_open_everywhere();
    }
    if (open() || borrowed()) {
      return;
    }
    typename Nccl::unique_id id{};
    std::vector<std::byte> bytes(sizeof id);
    const control_ref host = control_ref(host_).looking(hook_);
    agreed(host, seconds_, [&] {
      if (host_.rank() == 0) {
        id = link_.make_id();
        std::memcpy(bytes.data(), &id, sizeof id);
      }
    });
    bytes = broadcast_bytes(host, std::move(bytes), 0, limit());
    std::memcpy(&id, bytes.data(), sizeof id);
    const std::optional<error> mine = attempt([&] {
      const deadline end = limit();
      link_.connect(id, host_.rank(), host_.size(), [&] { watch(end); });
    });
    if constexpr (InterruptibleCommunicator<Host>) {
      if (mine) {
        host_.interrupt();  // the others wait for this rank
      }
    }
    try {
      agree(host, mine, limit());
    } catch (...) {
      close();
      throw;
    }
  }

  /// What is under way ends, done or not, and nothing more can be started.
  void close() noexcept { link_.close(); }

  /// Calls that move together, as `nccl_link` makes them. \throws error{communication}, {interrupted}, {peer_lost}
  template <class Calls>
  void issue(std::string_view what, Calls&& calls) {
    const deadline end = limit();
    link_.issue(what, std::forward<Calls>(calls), [&] { watch(end); });
  }
  [[nodiscard]] static bool is_accepted(int code) noexcept { return nccl_link<Nccl, Cuda>::is_accepted(code); }

  /// One look at what may have happened while a rank waits. \throws error{communication}, {interrupted}, {peer_lost}
  void watch(deadline limit) {
    if (host_.interrupted() || limit.ended()) {
      throw error(errc::interrupted, "", "interrupted by the failure of a rank");
    }
    link_.watch(limit);
  }

 private:
  [[nodiscard]] deadline limit() const noexcept {
    return deadline::after(seconds_).looking(hook_, InterruptibleCommunicator<Host>);
  }
  /// What was borrowed cannot be made anew here.
  void require_open_everywhere() {
    if (all_reduce_max(control_ref(host_).looking(hook_), open() ? 0 : 1, limit()) != 0) {
      close();
      throw error(errc::peer_lost, "NCCL",
                  "the communicator was aborted when an earlier attempt failed; have its owner make another one",
                  {.rank = every_rank});
    }
    doubted_ = false;
  }

  Host& host_;
  nccl_link<Nccl, Cuda> link_;
  double seconds_;
  wait_hook* hook_ = nullptr;
  bool doubted_ = false;
};

}  // namespace fsdpinit::detail
