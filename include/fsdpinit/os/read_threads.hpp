#pragma once

#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/os/blocked_signals.hpp>
#include <fsdpinit/os/monitor.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <pthread.h>

namespace fsdpinit::detail {

/// Threads that fill one stretch of memory together, each a piece at a time: one thread copies out of the page cache more slowly
/// than a link to a device takes it. The caller is one of them. Nothing is allocated per stretch.
///
/// Used by one thread; what it runs must not use it in turn.
class read_threads {
 public:
  /// Below this a piece is not worth waking a thread for.
  static constexpr std::uint64_t least_piece_bytes = 256 * kib;

  /// \param threads in all, the caller's included; 0 counts as 1. \param hook looks while the caller waits for the others
  /// \throws error{io} with errno where the system gives no more threads.
  explicit read_threads(std::size_t threads, wait_hook* hook = nullptr) : hook_(hook) {
    workers_.reserve(threads);
    const blocked_signals while_they_start;
    while (workers_.size() + 1 < threads) {
      pthread_t made{};
      if (const int code = pthread_create(&made, nullptr, &run, this); code != 0) {
        stop();
        throw error(errc::io, "reader_threads", "the system gives no more threads; raise `ulimit -u`, or ask for fewer",
                    {.native_code = code});
      }
      workers_.push_back(made);
    }
  }
  read_threads(const read_threads&) = delete;
  read_threads& operator=(const read_threads&) = delete;
  ~read_threads() { stop(); }

  /// Calls `read(thread, offset, piece)` for pieces that together are `destination`, `offset` from its beginning, and returns when all
  /// have returned. `thread` is a number below that of threads; no two calls at a time have the same. \throws what the first of them, by offset, has thrown; no piece after it may have been read.
  template <class Read>
  void fill(mutable_bytes destination, Read&& read) {
    if (workers_.empty() || destination.size() < 2 * least_piece_bytes) {
      read(std::size_t{0}, std::uint64_t{0}, destination);
      return;
    }
    const std::uint64_t threads = workers_.size() + 1;
    const std::uint64_t share = align_up(ceil_div(destination.size(), threads), page_bytes);
    monitor::lock lock(changed_);
    job_ = {.destination = destination,
            .piece = share < least_piece_bytes ? least_piece_bytes : share,
            .context = &read,
            .call = [](void* context, std::size_t thread, std::uint64_t offset, mutable_bytes piece) {
              (*static_cast<std::remove_reference_t<Read>*>(context))(thread, offset, piece);
            }};
    failure_.reset();
    next_ = 0;
    changed_.notify_all();
    take_pieces(0, lock);
    // Nothing ends it: they write to the destination.
    static_cast<void>(lock.wait_until(deadline::never().looking(hook_, false), [&] { return busy_ == 0; }));
    if (failure_) {
      throw error(*failure_);
    }
  }

 private:
  static constexpr std::uint64_t page_bytes = 4096;

  struct job {
    mutable_bytes destination{};
    std::uint64_t piece = 0;
    void* context = nullptr;
    void (*call)(void*, std::size_t, std::uint64_t, mutable_bytes) = nullptr;
  };

  static void* run(void* self) {
    read_threads& all = *static_cast<read_threads*>(self);
    monitor::lock lock(all.changed_);
    const std::size_t thread = ++all.started_;
    while (!all.stopping_) {
      all.take_pieces(thread, lock);
      static_cast<void>(lock.wait_until(deadline::never(), [&] { return all.stopping_ || all.has_piece(); }));
    }
    return nullptr;
  }

  [[nodiscard]] bool has_piece() const noexcept { return next_ < job_.destination.size(); }

  void take_pieces(std::size_t thread, monitor::lock& lock) {
    while (has_piece()) {
      const std::uint64_t offset = next_;
      const mutable_bytes piece =
          job_.destination.subspan(offset, smaller(job_.piece, job_.destination.size() - offset));
      next_ += piece.size();
      ++busy_;
      std::optional<error> failed;
      lock.without([&] { failed = attempt([&] { job_.call(job_.context, thread, offset, piece); }); });
      --busy_;
      if (failed && (!failure_ || offset < failed_at_)) {
        failure_ = std::move(failed);
        failed_at_ = offset;
        next_ = job_.destination.size();  // the rest is not needed any more
      }
      if (busy_ == 0) {
        changed_.notify_all();
      }
    }
  }

  void stop() noexcept {
    {
      const monitor::lock lock(changed_);
      stopping_ = true;
      changed_.notify_all();
    }
    for (const pthread_t each : workers_) {
      pthread_join(each, nullptr);
    }
  }

  wait_hook* hook_;
  monitor changed_;
  std::vector<pthread_t> workers_;
  job job_{};
  std::uint64_t next_ = 0;   // byte that nobody reads yet
  std::size_t busy_ = 0;     // threads that read
  std::size_t started_ = 0;  // besides the caller
  std::optional<error> failure_;
  std::uint64_t failed_at_ = 0;
  bool stopping_ = false;
};

}  // namespace fsdpinit::detail
