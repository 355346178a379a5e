#pragma once

#include <fsdpinit/communicators/nccl_api.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>

#include <cstddef>
#include <exception>
#include <string_view>
#include <utility>

namespace fsdpinit::detail {

/// One rank's end of an NCCL communicator, which never blocks: whoever has to wait says what to look at meanwhile, and that may throw.
template <class Nccl, CudaApi Cuda>
class nccl_link {
 public:
  using unique_id = typename Nccl::unique_id;

  /// Not connected yet.
  nccl_link(int device, Nccl nccl, Cuda cuda) : device_(device), nccl_(std::move(nccl)), cuda_(std::move(cuda)) {}
  nccl_link(const nccl_link&) = delete;
  nccl_link& operator=(const nccl_link&) = delete;
  ~nccl_link() {
    if (borrowed_) {
      return;
    }
    if (open_ && std::uncaught_exceptions() == 0) {
      finalize();
    }
    close();
  }

  [[nodiscard]] bool open() const noexcept { return open_; }
  [[nodiscard]] bool borrowed() const noexcept { return borrowed_; }

  /// What all ranks connect by, made on one of them. \throws error{communication}
  [[nodiscard]] unique_id make_id() {
    unique_id id{};
    require(nccl_.make_id(&id), "make the id of a communicator");
    return id;
  }

  /// Collective. \throws error{communication}, {device}, {peer_lost}, and what `look()` throws; `close()` is next then.
  template <class Look>
  void connect(const unique_id& id, std::size_t rank, std::size_t size, Look&& look) {
    const cuda_device_guard<Cuda> here(cuda_, device_);
    const int code = nccl_.connect(&comm_, static_cast<int>(size), id, static_cast<int>(rank));
    made_ = is_accepted(code);
    settle(code, "connect the ranks", look);
    open_ = true;
  }

  /// In place of `connect`: somebody else's, which is connected. It is not destroyed here; only `close()` aborts it.
  /// \throws error{communication}; error{invalid_argument} where it has this rank elsewhere.
  void borrow(typename Nccl::comm theirs, std::size_t rank, std::size_t size) {
    int its_rank = 0;
    int its_size = 0;
    require(nccl_.place_of(theirs, &its_rank, &its_size), "ask for a rank");
    if (its_rank != static_cast<int>(rank) || its_size != static_cast<int>(size)) {
      throw error(errc::invalid_argument, "comm",
                  concat("rank ", rank, " of ", size, " of the host channel is rank ", its_rank, " of ", its_size,
                         " there; give a communicator of the same ranks in the same order"));
    }
    comm_ = theirs;
    made_ = open_ = borrowed_ = true;
  }

  /// What is under way ends, done or not, and nothing more can be started.
  void close() noexcept {
    open_ = false;
    if (std::exchange(made_, false)) {
      nccl_.abort(comm_);
    }
  }

  /// Calls that move together: `calls(nccl, comm)` makes them, and returns the code of the first that failed. Returns once all are on
  /// their streams, for which the ranks may have to meet. \throws as `connect`
  template <class Calls, class Look>
  void issue(std::string_view what, Calls&& calls, Look&& look) {
    require(nccl_.group_start(), what);
    const int inside = calls(nccl_, comm_);
    const int end = nccl_.group_end();  // also where one failed: the thread's next calls would be part of the group
    settle(is_accepted(inside) ? end : inside, what, look);
  }
  [[nodiscard]] static bool is_accepted(int code) noexcept {
    return code == Nccl::success || code == Nccl::in_progress;
  }

  /// One look at what may have happened while a rank waits. \throws error{communication}, {peer_lost}
  void watch(deadline limit) {
    check();
    static_cast<void>(limit.ended());  // it looks; whoever can end the wait does so
    if (limit.passed()) {
      throw error(
          errc::peer_lost, "",
          "a peer did not arrive within the deadline; look at what the other ranks do, or raise deadline_seconds");
    }
  }
  /// What NCCL has noticed by itself. \throws error{communication}, {peer_lost}
  void check() {
    if (const int code = progress(); !is_accepted(code)) {
      require(code, "go on");
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
  template <class Look>
  void settle(int code, std::string_view what, Look&& look) {
    poll_interval interval;
    while (code == Nccl::in_progress) {
      look();
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

  int device_;
  Nccl nccl_;
  Cuda cuda_;
  typename Nccl::comm comm_{};
  bool made_ = false;  // there is a communicator, connected or not
  bool open_ = false;
  bool borrowed_ = false;
};

}  // namespace fsdpinit::detail
