#pragma once

#include <fsdpinit/core/text.hpp>
#include <fsdpinit/memory/cuda_api.hpp>

#include <ctime>
#include <string_view>
#include <utility>

#include <sched.h>

namespace fsdpinit {

namespace detail {

/// How often something is looked at that takes from microseconds to seconds: often at first, then every 20 microseconds.
class poll_interval {
 public:
  void wait() noexcept {
    if (++polls_ < eager_polls) {
      sched_yield();
      return;
    }
    const std::timespec pause{.tv_sec = 0, .tv_nsec = 20'000};
    nanosleep(&pause, nullptr);
  }

 private:
  static constexpr int eager_polls = 200;
  int polls_ = 0;
};

/// A call that concerns the current device, on another one.
/// \throws error{device}
template <CudaApi Cuda, class Call>
void on_cuda_device(Cuda& cuda, int device, std::string_view what, Call&& call) {
  const cuda_device_guard<Cuda> here(cuda, device);
  require_cuda(cuda, call(), concat(what, " on device ", device));
}

/// Looks at it until it is done. A device that fails says so; one that hangs is not left alone.
/// \throws error{device}
template <CudaApi Cuda, class Query>
void wait_for_cuda(Cuda& cuda, Query&& query) {
  poll_interval interval;
  for (;;) {
    const int code = query();
    if (code == Cuda::success) {
      return;
    }
    if (code != Cuda::not_ready) {
      require_cuda(cuda, code, "finish what was started on the device");
    }
    interval.wait();
  }
}

}  // namespace detail

/// A stream that somebody else has, a framework for instance, and that outlives this.
template <CudaApi Cuda>
class basic_cuda_stream_view {
 public:
  using handle = typename Cuda::stream;

  explicit basic_cuda_stream_view(handle stream, Cuda cuda = Cuda()) noexcept
      : cuda_(std::move(cuda)), stream_(stream) {}

  [[nodiscard]] handle get() const noexcept { return stream_; }
  /// Returns when all that was started is done. \throws error{device}
  void wait() {
    detail::wait_for_cuda(cuda_, [&] { return cuda_.query_stream(stream_); });
  }
  /// Returns when nothing that was started is under way any more, done or failed.
  void settle() noexcept {
    detail::poll_interval interval;
    while (cuda_.query_stream(stream_) == Cuda::not_ready) {
      interval.wait();
    }
  }

 protected:
  [[nodiscard]] Cuda& cuda() noexcept { return cuda_; }

 private:
  Cuda cuda_;
  handle stream_;
};

/// A stream of one's own on a device. Its destruction does not wait for what was started on it.
template <CudaApi Cuda>
class basic_cuda_stream : public basic_cuda_stream_view<Cuda> {
 public:
  using handle = typename Cuda::stream;

  /// \throws error{device}
  basic_cuda_stream(Cuda cuda, int device) : basic_cuda_stream_view<Cuda>(made(cuda, device), cuda) {}
  ~basic_cuda_stream() { this->cuda().destroy_stream(this->get()); }
  basic_cuda_stream(const basic_cuda_stream&) = delete;
  basic_cuda_stream& operator=(const basic_cuda_stream&) = delete;

 private:
  [[nodiscard]] static handle made(Cuda& cuda, int device) {
    handle out{};
    detail::on_cuda_device(cuda, device, "make a stream", [&] { return cuda.create_stream(&out); });
    return out;
  }
};

/// A moment in a stream, for others to wait for.
template <CudaApi Cuda>
class basic_cuda_event {
 public:
  /// \throws error{device}
  basic_cuda_event(Cuda cuda, int device) : cuda_(std::move(cuda)) {
    detail::on_cuda_device(cuda_, device, "make an event", [&] { return cuda_.create_event(&event_); });
  }
  ~basic_cuda_event() { cuda_.destroy_event(event_); }
  basic_cuda_event(const basic_cuda_event&) = delete;
  basic_cuda_event& operator=(const basic_cuda_event&) = delete;

  /// When all that has been started on the stream is done. \throws error{device}
  void record(typename Cuda::stream in) { detail::require_cuda(cuda_, cuda_.record(event_, in), "record an event"); }
  /// What is started on `in` from now on waits for it. \throws error{device}
  void hold(typename Cuda::stream in) {
    detail::require_cuda(cuda_, cuda_.wait_event(in, event_), "wait for an event");
  }
  /// At once; true also if it was never recorded. \throws error{device}
  [[nodiscard]] bool has_come() {
    const int code = cuda_.query_event(event_);
    if (code != Cuda::not_ready) {
      detail::require_cuda(cuda_, code, "finish what was started on the device");
    }
    return code == Cuda::success;
  }
  /// Returns when it has come; at once if it was never recorded. \throws error{device}
  void wait() {
    detail::wait_for_cuda(cuda_, [&] { return cuda_.query_event(event_); });
  }

 private:
  Cuda cuda_;
  typename Cuda::event event_{};
};

}  // namespace fsdpinit
