#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/testing/call_counter.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <sys/mman.h>

namespace fsdpinit::testing {

/// A CudaApi without a GPU, for tests of what works on one. It is as hard to please as a device may be:
///
/// - Addresses of device memory are reserved without access, so that host code which touches them dies.
/// - What is started on a stream is not done before a query says so, and streams run ahead of each other only where events
///   make them: too early a use of a buffer, or an event that is missing, shows in the bytes.
/// - Every call can be made to fail, through `calls`.
/// - `faults()` tells of copies outside of memory or of bytes that nobody wrote, of memory that was given back twice, or while
///   a copy still uses it, and of handles that are not there any more; `left()` of what was not given back.
///
/// Copies share the device. Safe to use from several threads.
class fake_cuda {
  struct stream_record;
  struct event_record;

 public:
  using stream = stream_record*;
  using event = event_record*;
  static constexpr int success = 0;
  static constexpr int out_of_memory = 2;
  static constexpr int not_ready = 600;
  static constexpr int injected = 999;

  /// \param bytes that the device has.
  explicit fake_cuda(std::uint64_t bytes = ~std::uint64_t{0}, int devices = 1)
      : all_(std::make_shared<state>(bytes, devices)) {}

  /// Calls that may fail.
  call_counter calls;

  /// What has been done wrong.
  [[nodiscard]] std::vector<std::string> faults() const {
    const std::lock_guard lock(all_->mutex);
    return all_->faults;
  }
  /// Allocations, streams and events that are still there.
  [[nodiscard]] std::size_t left() const {
    const std::lock_guard lock(all_->mutex);
    std::size_t out = all_->memory.size() + all_->pinned.size();
    for (const auto& each : all_->streams) {
      out += each->there ? 1 : 0;
    }
    for (const auto& each : all_->events) {
      out += each->there ? 1 : 0;
    }
    return out;
  }

  int device(int* out) noexcept {
    return counted([&] {
      *out = all_->current[std::this_thread::get_id()];
      return success;
    });
  }
  int set_device(int device) noexcept {
    return counted([&] {
      if (device < 0 || device >= all_->devices) {
        return invalid_device;
      }
      all_->current[std::this_thread::get_id()] = device;
      return success;
    });
  }

  int allocate(void** out, std::uint64_t bytes) noexcept {
    return counted([&] {
      if (bytes > all_->room) {
        return out_of_memory;
      }
      void* const address = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (address == MAP_FAILED) {
        return out_of_memory;
      }
      all_->room -= bytes;
      all_->memory.emplace(
          static_cast<std::byte*>(address),
          contents{.bytes = std::vector<std::byte>(bytes, std::byte{0xa5}), .written = std::vector<bool>(bytes)});
      *out = address;
      return success;
    });
  }
  void deallocate(void* address) noexcept {
    const std::lock_guard lock(all_->mutex);
    const auto at = all_->memory.find(static_cast<std::byte*>(address));
    if (at == all_->memory.end()) {
      all_->fault("device memory is given back that is not there");
      return;
    }
    all_->settle(at->first, at->second.bytes.size(), "device");
    munmap(address, at->second.bytes.size());
    all_->room += at->second.bytes.size();
    all_->memory.erase(at);
  }

  int allocate_pinned(void** out, std::uint64_t bytes) noexcept {
    return counted([&] {
      void* const address = ::operator new(bytes, std::align_val_t{pinned_alignment}, std::nothrow);
      if (address == nullptr) {
        return out_of_memory;
      }
      std::memset(address, 0x5a, bytes);
      all_->pinned.emplace(static_cast<std::byte*>(address), bytes);
      *out = address;
      return success;
    });
  }
  void deallocate_pinned(void* address) noexcept {
    const std::lock_guard lock(all_->mutex);
    const auto at = all_->pinned.find(static_cast<std::byte*>(address));
    if (at == all_->pinned.end()) {
      all_->fault("pinned memory is given back that is not there");
      return;
    }
    all_->settle(at->first, at->second, "pinned");
    all_->pinned.erase(at);
    ::operator delete(address, std::align_val_t{pinned_alignment});
  }

  int create_stream(stream* out) noexcept {
    return counted([&] {
      *out = all_->streams.emplace_back(std::make_unique<stream_record>()).get();
      return success;
    });
  }
  void destroy_stream(stream in) noexcept {
    const std::lock_guard lock(all_->mutex);
    if (all_->is_there(in, "stream")) {
      all_->run(*in, in->started);
      in->there = false;
    }
  }
  int query_stream(stream in) noexcept {
    return counted([&] {
      if (!all_->is_there(in, "stream")) {
        return invalid_handle;
      }
      return all_->query(*in, in->started);
    });
  }

  int create_event(event* out) noexcept {
    return counted([&] {
      *out = all_->events.emplace_back(std::make_unique<event_record>()).get();
      return success;
    });
  }
  void destroy_event(event when) noexcept {
    const std::lock_guard lock(all_->mutex);
    if (all_->is_there(when, "event")) {
      when->there = false;
    }
  }
  int record(event when, stream in) noexcept {
    return counted([&] {
      if (!all_->is_there(when, "event") || !all_->is_there(in, "stream")) {
        return invalid_handle;
      }
      when->of = in;
      when->after = in->started;
      return success;
    });
  }
  int query_event(event when) noexcept {
    return counted([&] {
      if (!all_->is_there(when, "event")) {
        return invalid_handle;
      }
      return when->of == nullptr ? success : all_->query(*when->of, when->after);
    });
  }
  int wait_event(stream in, event when) noexcept {
    return counted([&] {
      if (!all_->is_there(when, "event") || !all_->is_there(in, "stream")) {
        return invalid_handle;
      }
      if (when->of != nullptr) {
        in->start({.run = [all = all_.get(), of = when->of, after = when->after] { all->run(*of, after); }});
      }
      return success;
    });
  }

  int copy_to_device(void* to, const void* from, std::uint64_t bytes, stream in) noexcept {
    return copy_rows_to_device(to, from, bytes, bytes, 1, in);
  }
  int copy_rows_to_device(void* to, const void* from, std::uint64_t stride, std::uint64_t row, std::uint64_t rows,
                          stream in) noexcept {
    return started(in, {.run =
                            [=, all = all_.get()] {
                              for (std::uint64_t i = 0; i < rows; ++i) {
                                all->write(static_cast<std::byte*>(to) + i * row,
                                           static_cast<const std::byte*>(from) + i * stride, row);
                              }
                            },
                        .uses = {{to, row * rows}, {from, stride * (rows - 1) + row}}});
  }
  int copy_to_host(void* to, const void* from, std::uint64_t bytes, stream in) noexcept {
    return started(in, {.run = [=, all = all_.get()] { all->read(static_cast<std::byte*>(to), from, bytes); },
                        .uses = {{to, bytes}, {from, bytes}}});
  }
  int copy_on_device(void* to, const void* from, std::uint64_t bytes, stream in) noexcept {
    return started(in, {.run =
                            [=, all = all_.get()] {
                              std::vector<std::byte> between(bytes);
                              all->read(between.data(), from, bytes);
                              all->write(static_cast<std::byte*>(to), between.data(), bytes);
                            },
                        .uses = {{to, bytes}, {from, bytes}}});
  }

  std::string_view text_of(int code) noexcept {
    switch (code) {
      case success:
        return "no error";
      case out_of_memory:
        return "out of memory";
      case invalid_device:
        return "invalid device ordinal";
      case invalid_handle:
        return "invalid resource handle";
      case injected:
        return "injected failure";
      default:
        return "device failure";
    }
  }

 private:
  static constexpr int invalid_device = 101;
  static constexpr int invalid_handle = 400;
  static constexpr int failed = 719;
  static constexpr std::size_t pinned_alignment = 4096;

  struct range {
    const void* begin = nullptr;
    std::uint64_t bytes = 0;
  };
  struct work {
    std::function<void()> run;
    range uses[2]{};
  };
  struct stream_record {
    void start(work next) {
      pending.push_back(std::move(next));
      ++started;
    }
    std::deque<work> pending{};
    std::uint64_t started = 0;  // pieces of work, ever
    bool looked_at = false;     // the next query finds it done
    bool there = true;
  };
  struct event_record {
    stream of = nullptr;  // where it was recorded last, after so many pieces of work
    std::uint64_t after = 0;
    bool there = true;
  };
  struct contents {
    std::vector<std::byte> bytes;
    std::vector<bool> written;
  };

  struct state {
    state(std::uint64_t bytes, int count) : room(bytes), devices(count) {}
    ~state() {
      for (const auto& [address, what] : memory) {
        munmap(address, what.bytes.size());
      }
      for (const auto& [address, bytes] : pinned) {
        ::operator delete(address, std::align_val_t{pinned_alignment});
      }
    }
    state(const state&) = delete;
    state& operator=(const state&) = delete;

    void fault(std::string what) { faults.push_back(std::move(what)); }

    template <class Record>
    bool is_there(const Record* record, std::string_view what) {
      if (record == nullptr || !record->there) {
        fault(concat("a call with a ", what, " that is not there"));
        return false;
      }
      return true;
    }

    /// The first `count` pieces of work of a stream are done afterwards.
    void run(stream_record& in, std::uint64_t count) {
      while (in.started - in.pending.size() < count) {
        const work next = std::move(in.pending.front());
        in.pending.pop_front();
        next.run();
      }
    }
    int query(stream_record& in, std::uint64_t count) {
      if (in.started - in.pending.size() >= count) {
        return success;
      }
      in.looked_at = !in.looked_at;
      if (in.looked_at) {
        return not_ready;
      }
      const std::size_t before = faults.size();
      run(in, count);
      return faults.size() == before ? success : failed;
    }
    /// Memory is about to go: nothing that is pending should use it. What does is done first.
    void settle(const std::byte* begin, std::uint64_t bytes, std::string_view what) {
      for (const auto& each : streams) {
        for (const work& waiting : each->pending) {
          for (const range& used : waiting.uses) {
            const auto* const first = static_cast<const std::byte*>(used.begin);
            if (first < begin + bytes && begin < first + used.bytes) {
              fault(concat(what, " memory is given back while a copy may use it"));
            }
          }
        }
        run(*each, each->started);
      }
    }
    /// The memory at [address, address + bytes), at `offset`; nullptr and a fault if there is none.
    contents* find(const void* address, std::uint64_t bytes, std::uint64_t& offset) {
      auto at = memory.upper_bound(const_cast<std::byte*>(static_cast<const std::byte*>(address)));
      if (at != memory.begin()) {
        --at;
        offset = static_cast<std::uint64_t>(static_cast<const std::byte*>(address) - at->first);
        if (offset + bytes <= at->second.bytes.size()) {
          return &at->second;
        }
      }
      fault(concat("a copy of ", bytes, " bytes lies outside of device memory"));
      return nullptr;
    }
    void write(std::byte* to, const std::byte* from, std::uint64_t bytes) {
      std::uint64_t offset = 0;
      if (contents* const there = find(to, bytes, offset)) {
        std::memcpy(there->bytes.data() + offset, from, bytes);
        for (std::uint64_t i = 0; i < bytes; ++i) {
          there->written[offset + i] = true;
        }
      }
    }
    void read(std::byte* to, const void* from, std::uint64_t bytes) {
      std::uint64_t offset = 0;
      if (contents* const there = find(from, bytes, offset)) {
        for (std::uint64_t i = 0; i < bytes; ++i) {
          if (!there->written[offset + i]) {
            fault(concat("byte ", i, " of a copy of ", bytes, " from the device was never written"));
            break;
          }
        }
        std::memcpy(to, there->bytes.data() + offset, bytes);
      }
    }

    std::mutex mutex;
    std::map<std::byte*, contents> memory;
    std::map<std::byte*, std::uint64_t> pinned;
    std::vector<std::unique_ptr<stream_record>> streams;
    std::vector<std::unique_ptr<event_record>> events;
    std::map<std::thread::id, int> current;  // device
    std::vector<std::string> faults;
    std::uint64_t room;
    int devices;
  };

  template <class Fn>
  int counted(Fn&& fn) noexcept {
    const std::lock_guard lock(all_->mutex);
    return calls.fails_now() ? injected : fn();
  }
  int started(stream in, work what) noexcept {
    return counted([&] {
      if (!all_->is_there(in, "stream")) {
        return invalid_handle;
      }
      in->start(std::move(what));
      return success;
    });
  }

  std::shared_ptr<state> all_;
};

}  // namespace fsdpinit::testing
