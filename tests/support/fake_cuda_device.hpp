#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/text.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/mman.h>

namespace fsdpinit::testing {

/// Memory, streams and events of a GPU that is not there: what `fake_cuda` calls. It does what it is told as late as it may, and
/// keeps a list of what it should not have been told. Not safe to use from several threads.
class fake_cuda_device {
 public:
  struct range {
    const void* begin = nullptr;
    std::uint64_t bytes = 0;
  };
  /// What a stream does in its turn: `run` returns whether it is done, or false where it has to wait for another stream.
  struct work {
    std::function<bool()> run;
    std::vector<range> uses{};
  };
  enum class place { device, pinned };
  struct stream_record {
    std::deque<work> pending{};
    std::uint64_t started = 0;  // pieces of work, ever
    bool looked_at = false;     // the next query finds it done
    bool there = true;
  };
  struct event_record {
    stream_record* of = nullptr;  // where it was recorded last, after so many pieces of work
    std::uint64_t after = 0;
    bool there = true;
  };
  enum class state { done, under_way, failed };

  explicit fake_cuda_device(std::uint64_t bytes) : room_(bytes) {}
  ~fake_cuda_device() {
    for (const auto& [address, what] : memory_) {
      release(address, what);
    }
  }
  fake_cuda_device(const fake_cuda_device&) = delete;
  fake_cuda_device& operator=(const fake_cuda_device&) = delete;

  [[nodiscard]] const std::vector<std::string>& faults() const noexcept { return faults_; }
  /// Allocations, streams and events that are still there.
  [[nodiscard]] std::size_t left() const {
    const auto is_there = [](const auto& each) { return each->there; };
    return memory_.size() + static_cast<std::size_t>(std::ranges::count_if(streams_, is_there) +
                                                     std::ranges::count_if(events_, is_there));
  }

  /// Pieces of work that were started and are not done.
  [[nodiscard]] std::size_t pending() const {
    std::size_t out = 0;
    for (const auto& each : streams_) {
      out += each->pending.size();
    }
    return out;
  }

  /// Copies that were ever started.
  [[nodiscard]] std::uint64_t copies() const noexcept { return copies_; }

  /// nullptr: there is no room.
  [[nodiscard]] void* allocate(place where, std::uint64_t bytes) {
    allocation made{.where = where, .bytes = bytes};
    void* address = nullptr;
    if (where == place::pinned) {
      address = ::operator new(bytes, alignment, std::nothrow);
      if (address != nullptr) {
        std::memset(address, 0x5a, bytes);
      }
    } else if (bytes <= room_) {
      address = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      address = address == MAP_FAILED ? nullptr : address;
      made.contents.assign(bytes, std::byte{0xa5});
      made.written.assign(bytes, false);
    }
    if (address != nullptr) {
      room_ -= where == place::device ? bytes : 0;
      memory_.emplace(static_cast<std::byte*>(address), std::move(made));
    }
    return address;
  }
  void deallocate(place where, void* address) {
    const auto at = memory_.find(static_cast<std::byte*>(address));
    if (at == memory_.end() || at->second.where != where) {
      fault(concat(name_of(where), " memory is given back that is not there"));
      return;
    }
    settle(at->first, at->second);
    room_ += where == place::device ? at->second.bytes : 0;
    release(at->first, at->second);
    memory_.erase(at);
  }

  [[nodiscard]] stream_record* make_stream() { return streams_.emplace_back(std::make_unique<stream_record>()).get(); }
  [[nodiscard]] event_record* make_event() { return events_.emplace_back(std::make_unique<event_record>()).get(); }
  /// Records are kept, so that the use of one that has gone is found; a fault where it has.
  [[nodiscard]] bool is_there(const stream_record* in) { return is_there(in, "stream"); }
  [[nodiscard]] bool is_there(const event_record* when) { return is_there(when, "event"); }

  [[nodiscard]] bool is_on_device(const void* address) const {
    auto at = memory_.upper_bound(const_cast<std::byte*>(static_cast<const std::byte*>(address)));
    if (at == memory_.begin()) {
      return false;
    }
    --at;
    return at->second.where == place::device && static_cast<const std::byte*>(address) < at->first + at->second.bytes;
  }

  /// The last thing that the stream does, until something else is started.
  static void start(stream_record& in, work next) {
    in.pending.push_back(std::move(next));
    ++in.started;
  }
  void copy_to_device(stream_record& in, void* to, const void* from, std::uint64_t stride, std::uint64_t row,
                      std::uint64_t rows) {
    ++copies_;
    start(in, {.run =
                   [=, this] {
                     for (std::uint64_t i = 0; i < rows; ++i) {
                       write(static_cast<std::byte*>(to) + i * row, static_cast<const std::byte*>(from) + i * stride,
                             row);
                     }
                     return true;
                   },
               .uses = {{to, row * rows}, {from, stride * (rows - 1) + row}}});
  }
  void copy_to_host(stream_record& in, void* to, const void* from, std::uint64_t bytes) {
    ++copies_;
    start(in, {.run =
                   [=, this] {
                     read(static_cast<std::byte*>(to), from, bytes);
                     return true;
                   },
               .uses = {{to, bytes}, {from, bytes}}});
  }
  /// A fault where rows overlap, within one end or between the two.
  void copy_on_device(stream_record& in, void* to, std::uint64_t to_stride, const void* from, std::uint64_t from_stride,
                      std::uint64_t row, std::uint64_t rows) {
    const range written_to{to, to_stride * (rows - 1) + row};
    const range read_from{from, from_stride * (rows - 1) + row};
    ++copies_;
    start(in, {.run =
                   [=, this] {
                     if (to_stride < row || from_stride < row || overlap(read_from, written_to)) {
                       fault(concat("a copy of ", rows, " rows on the device writes where it reads or has written"));
                     }
                     for (std::uint64_t i = 0; i < rows; ++i) {
                       copy_now(static_cast<std::byte*>(to) + i * to_stride,
                                static_cast<const std::byte*>(from) + i * from_stride, row);
                     }
                     return true;
                   },
               .uses = {written_to, read_from}});
  }
  void zero(stream_record& in, void* to, std::uint64_t bytes) {
    start(in, {.run =
                   [=, this] {
                     write(static_cast<std::byte*>(to), std::vector<std::byte>(bytes).data(), bytes);
                     return true;
                   },
               .uses = {{to, bytes}}});
  }
  /// As `convert_floats`; a fault where it writes what it has still to read.
  void convert(stream_record& in, dtype from, const void* source, dtype to, void* destination, std::uint64_t count) {
    const range read_from{source, count * (bits(from) / 8)};
    const range written_to{destination, count * (bits(to) / 8)};
    start(in, {.run =
                   [=, this] {
                     if (count > 1 && overlap(read_from, written_to)) {
                       fault(concat("a conversion of ", count, " elements writes where it reads"));
                     }
                     std::vector<std::byte> narrow(read_from.bytes);
                     std::vector<std::byte> wide(written_to.bytes);
                     read(narrow.data(), source, narrow.size());
                     convert_floats(from, narrow.data(), to, wide.data(), count);
                     write(static_cast<std::byte*>(destination), wide.data(), wide.size());
                     return true;
                   },
               .uses = {read_from, written_to}});
  }
  /// On the device, at once.
  void copy_now(void* to, const void* from, std::uint64_t bytes) {
    std::vector<std::byte> between(bytes);
    read(between.data(), from, bytes);
    write(static_cast<std::byte*>(to), between.data(), bytes);
  }
  /// Of each two numbers of 64 bits the larger, at once.
  void max_now(void* to, const void* from, std::uint64_t bytes) {
    std::vector<std::uint64_t> here(bytes / sizeof(std::uint64_t));
    std::vector<std::uint64_t> there(here.size());
    read(reinterpret_cast<std::byte*>(here.data()), to, bytes);
    read(reinterpret_cast<std::byte*>(there.data()), from, bytes);
    for (std::size_t i = 0; i < here.size(); ++i) {
      here[i] = std::max(here[i], there[i]);
    }
    write(static_cast<std::byte*>(to), reinterpret_cast<const std::byte*>(here.data()), bytes);
  }
  /// Something is written there, nobody knows what.
  void spoil(void* to, std::uint64_t bytes) {
    write(static_cast<std::byte*>(to), std::vector<std::byte>(bytes, std::byte{0xdb}).data(), bytes);
  }
  void record(event_record& when, stream_record& in) {
    when.of = &in;
    when.after = in.started;
  }
  void hold(stream_record& in, const event_record& when) {
    if (when.of != nullptr) {
      start(in, {.run = [of = when.of, after = when.after] { return run(*of, after); }});
    }
  }

  [[nodiscard]] state query(const event_record& when) {
    return when.of == nullptr ? state::done : query(*when.of, when.after);
  }
  [[nodiscard]] state query(stream_record& in) { return query(in, in.started); }
  /// All that was started on it is done afterwards. A fault where something waits for what no longer comes.
  void finish(stream_record& in) {
    if (!run(in, in.started)) {
      fault("a stream goes while what was started on it waits for another");
    }
  }
  void fault(std::string what) { faults_.push_back(std::move(what)); }

 private:
  static constexpr std::align_val_t alignment{4096};

  struct allocation {
    place where = place::device;
    std::uint64_t bytes = 0;
    std::vector<std::byte> contents{};  // of device memory, of which the host has the addresses alone
    std::vector<bool> written{};
  };

  static std::string_view name_of(place where) { return where == place::device ? "device" : "pinned"; }
  static void release(std::byte* address, const allocation& what) {
    if (what.where == place::device) {
      munmap(address, what.bytes);
    } else {
      ::operator delete(address, alignment);
    }
  }
  template <class Record>
  bool is_there(const Record* record, std::string_view what) {
    if (record == nullptr || !record->there) {
      fault(concat("a call with a ", what, " that is not there"));
      return false;
    }
    return true;
  }

  /// Are the first `count` pieces of work of a stream done? They are, unless one has to wait.
  static bool run(stream_record& in, std::uint64_t count) {
    while (in.started - in.pending.size() < count) {
      if (!in.pending.front().run()) {
        return false;
      }
      in.pending.pop_front();
    }
    return true;
  }
  state query(stream_record& in, std::uint64_t count) {
    if (in.started - in.pending.size() >= count) {
      return state::done;
    }
    in.looked_at = !in.looked_at;
    if (in.looked_at) {
      return state::under_way;
    }
    const std::size_t before = faults_.size();
    if (!run(in, count)) {
      return state::under_way;
    }
    return faults_.size() == before ? state::done : state::failed;
  }
  static bool overlap(const range& a, const range& b) noexcept {
    const auto* const first = static_cast<const std::byte*>(a.begin);
    const auto* const second = static_cast<const std::byte*>(b.begin);
    return first < second + b.bytes && second < first + a.bytes;
  }
  /// Memory is about to go: nothing that is pending should use it. What does is done first.
  void settle(const std::byte* begin, const allocation& what) {
    for (const auto& each : streams_) {
      for (const work& waiting : each->pending) {
        for (const range& used : waiting.uses) {
          if (overlap(used, {begin, what.bytes})) {
            fault(concat(name_of(what.where), " memory is given back while a copy may use it"));
          }
        }
      }
      static_cast<void>(run(*each, each->started));
    }
  }

  /// The device memory at [address, address + bytes), at `offset`; nullptr and a fault if there is none.
  allocation* find(const void* address, std::uint64_t bytes, std::uint64_t& offset) {
    auto at = memory_.upper_bound(const_cast<std::byte*>(static_cast<const std::byte*>(address)));
    if (at != memory_.begin()) {
      --at;
      offset = static_cast<std::uint64_t>(static_cast<const std::byte*>(address) - at->first);
      if (at->second.where == place::device && offset + bytes <= at->second.bytes) {
        return &at->second;
      }
    }
    fault(concat("a copy of ", bytes, " bytes lies outside of device memory"));
    return nullptr;
  }
  void write(std::byte* to, const std::byte* from, std::uint64_t bytes) {
    std::uint64_t offset = 0;
    if (allocation* const there = find(to, bytes, offset)) {
      std::memcpy(there->contents.data() + offset, from, bytes);
      std::fill_n(there->written.begin() + static_cast<std::ptrdiff_t>(offset), bytes, true);
    }
  }
  void read(std::byte* to, const void* from, std::uint64_t bytes) {
    std::uint64_t offset = 0;
    if (const allocation* const there = find(from, bytes, offset)) {
      const auto first = there->written.begin() + static_cast<std::ptrdiff_t>(offset);
      const auto last = first + static_cast<std::ptrdiff_t>(bytes);
      if (const auto missing = std::find(first, last, false); missing != last) {
        fault(concat("byte ", missing - first, " of a copy of ", bytes, " from the device was never written"));
      }
      std::memcpy(to, there->contents.data() + offset, bytes);
    }
  }

  std::map<std::byte*, allocation> memory_;
  std::vector<std::unique_ptr<stream_record>> streams_;
  std::vector<std::unique_ptr<event_record>> events_;
  std::vector<std::string> faults_;
  std::uint64_t room_;
  std::uint64_t copies_ = 0;
};

}  // namespace fsdpinit::testing
