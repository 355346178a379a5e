#pragma once

#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/observe/resident_memory.hpp>
#include <fsdpinit/os/blocked_signals.hpp>

#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

/// \file
/// Memory over time, rank by rank: what the process holds, and what each rank has accounted for.

namespace fsdpinit {

/// One rank at one moment. Ranks that share a process share `rss_bytes`.
struct memory_sample {
  double seconds = 0;  ///< since the timeline began
  std::size_t rank = 0;
  const char* phase = "";
  std::uint64_t rss_bytes = 0;        ///< of the whole process
  std::uint64_t accounted_bytes = 0;  ///< of the rank's host memory
  std::uint64_t device_bytes = 0;     ///< of the rank's device memory
  bool periodic = true;               ///< taken by the clock, not because a phase began
};

struct timeline_options {
  double interval_seconds = 0.005;
  /// Beyond this many samples every second periodic one is dropped and the interval doubled, so that a load of hours
  /// still fits into some 50 MB. Those at the start of a phase always stay.
  std::size_t most_samples = std::size_t{1} << 20U;
};

/// Samples the memory of the ranks of this process, at an interval and whenever a rank enters a phase.
///
///     memory_timeline timeline;
///     host_memory memory;
///     auto watch = timeline.observer(rank, memory.shared_account());     // an Observer
///     initialize(module, source, comm, options, {.memory = memory, .observer = watch});
///     timeline.stop();
///     timeline.write_csv([&](std::string_view text) { file << text; });
///
/// `observer` and the observers may be used from any threads; each observer by one. No global state. The timeline must
/// outlive its observers.
class memory_timeline {
 public:
  /// What a rank tells the timeline through; models Observer.
  class rank_observer {
   public:
    /// This rank is in a phase called `name`, a string that outlives the timeline. Takes a sample.
    void phase(const char* name) { timeline_->enter(index_, name); }
    void progress(std::uint64_t /*done*/, std::uint64_t /*total*/) noexcept {}

   private:
    friend class memory_timeline;
    rank_observer(memory_timeline& timeline, std::size_t index) noexcept : timeline_(&timeline), index_(index) {}
    memory_timeline* timeline_;
    std::size_t index_;
  };

  /// Starts the sampling thread. \throws std::system_error if that is not possible. \pre interval_seconds > 0.
  explicit memory_timeline(const timeline_options& how = {})
      : interval_(how.interval_seconds), most_samples_(how.most_samples), sampler_(started()) {}
  memory_timeline(const memory_timeline&) = delete;
  memory_timeline& operator=(const memory_timeline&) = delete;
  ~memory_timeline() { stop(); }

  /// Watches `rank` from now on. An account is anything with `current()` that may be called from another thread:
  /// `host_memory::shared_account()`. `device` may be left out.
  template <class Host, class Device = Host>
  [[nodiscard]] rank_observer observer(std::size_t rank, std::shared_ptr<Host> host,
                                       std::shared_ptr<Device> device = nullptr) {
    watched_rank added{.rank = rank, .host = reader_of(std::move(host)), .device = reader_of(std::move(device))};
    const std::lock_guard lock(mutex_);
    ranks_.push_back(std::move(added));
    return {*this, ranks_.size() - 1};
  }

  /// Takes a last sample of every rank and ends the sampling; the second time it does nothing.
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      if (stopped_) {
        return;
      }
      stopped_ = true;
      sample_all(false);
    }
    wake_.notify_all();
    sampler_.join();
  }

  /// In the order of time. \pre `stop()` was called.
  [[nodiscard]] const std::vector<memory_sample>& samples() const noexcept { return samples_; }

  /// Hands the table to `sink(std::string_view)`, line by line: `seconds, rank, phase, rss_bytes, accounted_bytes,
  /// device_bytes`, the names of the columns first. \pre `stop()` was called.
  template <class Sink>
  void write_csv(Sink&& sink) const {
    sink(std::string_view("seconds,rank,phase,rss_bytes,accounted_bytes,device_bytes\n"));
    std::string line;
    for (const memory_sample& sample : samples_) {
      line.clear();
      append(line, sample);
      sink(std::string_view(line));
    }
  }

 private:
  using reader = std::function<std::uint64_t()>;
  struct watched_rank {
    std::size_t rank = 0;
    const char* phase = "";
    reader host;
    reader device;
  };

  template <class Account>
  static reader reader_of(std::shared_ptr<Account> account) {
    if (account == nullptr) {
      return [] { return std::uint64_t{0}; };
    }
    return [held = std::move(account)] { return static_cast<std::uint64_t>(held->current()); };
  }

  static void append(std::string& line, const memory_sample& sample) {
    char seconds[32];
    // Not printf: that takes the decimal point from the locale. Microseconds are finer than any interval.
    const auto end = std::to_chars(seconds, seconds + sizeof seconds, sample.seconds, std::chars_format::fixed, 6);
    line.append(seconds, end.ptr);
    line += "," + std::to_string(sample.rank) + "," + sample.phase;
    for (const std::uint64_t bytes : {sample.rss_bytes, sample.accounted_bytes, sample.device_bytes}) {
      line += "," + std::to_string(bytes);
    }
    line += '\n';
  }

  std::thread started() {
    const detail::blocked_signals while_it_starts;
    return std::thread([this] { run(); });
  }

  void run() {
    std::unique_lock lock(mutex_);
    while (!stopped_) {
      // The interval counts from the end of a sample: a machine that cannot keep up samples less, and nothing piles up.
      wake_.wait_for(lock, std::chrono::duration<double>(interval_), [&] { return stopped_; });
      if (!stopped_) {
        sample_all(true);
      }
    }
  }

  void enter(std::size_t index, const char* phase) {
    const std::lock_guard lock(mutex_);
    ranks_[index].phase = phase;
    if (!stopped_) {
      record(ranks_[index], monotonic_seconds() - began_, resident_.current(), false);
    }
  }

  void sample_all(bool periodic) {
    const double now = monotonic_seconds() - began_;
    const std::uint64_t resident = resident_.current();
    for (const watched_rank& each : ranks_) {
      record(each, now, resident, periodic);
    }
    if (samples_.size() > most_samples_) {
      thin_out();
    }
  }

  void record(const watched_rank& from, double now, std::uint64_t resident, bool periodic) {
    samples_.push_back({.seconds = now,
                        .rank = from.rank,
                        .phase = from.phase,
                        .rss_bytes = resident,
                        .accounted_bytes = from.host(),
                        .device_bytes = from.device(),
                        .periodic = periodic});
  }

  /// Drops every second moment of the periodic samples, of all ranks alike.
  void thin_out() {
    double moment = -1;
    bool keep = false;
    std::erase_if(samples_, [&](const memory_sample& sample) {
      if (sample.periodic && sample.seconds != moment) {
        moment = sample.seconds;
        keep = !keep;
      }
      return sample.periodic && !keep;
    });
    interval_ *= 2;
  }

  const double began_ = monotonic_seconds();
  const resident_memory resident_;
  std::mutex mutex_;
  std::condition_variable wake_;
  double interval_;
  std::size_t most_samples_;
  bool stopped_ = false;
  std::vector<watched_rank> ranks_;
  std::vector<memory_sample> samples_;
  std::thread sampler_;  // last: it uses all of the above
};

}  // namespace fsdpinit
