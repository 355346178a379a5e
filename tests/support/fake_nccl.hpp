#pragma once

#include "support/fake_cuda.hpp"
#include "support/fake_cuda_device.hpp"
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/testing/call_counter.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace fsdpinit::testing {

/// An NcclApi without GPUs, over `fake_cuda`: ranks are threads that share one fake device, each with streams of its own.
///
/// - What is called takes place when its stream comes to it, and waits there for the other ranks, for ever if need be.
/// - Connecting is in progress until all ranks have called it.
/// - A reduction is a message from each rank to each, and so is an all-gather.
/// - Sizes that differ are a fault of the device, as are calls outside of a group or with memory of the host.
/// - Every call can be made to fail, through `calls`; `break_down()` makes whatever is in progress fail, as a peer's end does.
///
/// Copies share the world. Safe to use from several threads.
class fake_nccl {
  struct clique;
  struct member {
    std::shared_ptr<clique> all;
    int rank = 0;
    bool aborted = false;
    std::map<std::tuple<int, int, int>, std::size_t> next{};  // of each channel that it has an end of
  };
  /// A message on its way: `from` is the sender's until it is taken.
  struct message {
    std::weak_ptr<member> sender{};
    const void* from = nullptr;
    std::uint64_t bytes = 0;
    bool taken = false;
  };
  using channel = std::vector<std::shared_ptr<message>>;
  struct clique {
    int ranks = 0;
    int arrived = 0;
    std::map<std::tuple<int, int, int>, channel> channels{};  // kind, sender, receiver
  };

 public:
  using comm = std::shared_ptr<member>;
  struct unique_id {
    std::uint64_t number = 0;
  };
  static constexpr int success = 0;
  static constexpr int internal_error = 3;
  static constexpr int invalid_usage = 5;
  static constexpr int peer_gone = 6;
  static constexpr int in_progress = 7;
  static constexpr int injected = 99;

  explicit fake_nccl(fake_cuda cuda = fake_cuda()) : all_(std::make_shared<shared>()), cuda_(std::move(cuda)) {}

  /// Calls that may fail.
  call_counter calls;

  /// From now on `progress` tells every rank that a peer is gone.
  void break_down() {
    const std::lock_guard lock(all_->mutex);
    all_->broken = true;
  }
  /// Communicators that were neither destroyed nor aborted.
  [[nodiscard]] std::size_t left() const {
    const std::lock_guard lock(all_->mutex);
    return all_->left;
  }

  int make_id(unique_id* out) noexcept {
    return counted([&] {
      out->number = ++all_->ids;
      return success;
    });
  }
  int connect(comm* made, int ranks, unique_id id, int rank) noexcept {
    return counted([&] {
      std::shared_ptr<clique>& world = all_->cliques[id.number];
      if (!world) {
        world = std::make_shared<clique>(clique{.ranks = ranks});
      }
      if (world->ranks != ranks || rank < 0 || rank >= ranks) {
        return invalid_usage;
      }
      ++world->arrived;
      ++all_->left;
      *made = std::make_shared<member>(member{.all = world, .rank = rank});
      return in_progress;
    });
  }
  int place_of(const comm& which, int* rank, int* ranks) noexcept {
    return counted([&] {
      *rank = which->rank;
      *ranks = which->all->ranks;
      return which->aborted ? invalid_usage : success;
    });
  }
  int progress(const comm& which, int* code) noexcept {
    return counted([&] {
      *code = all_->broken ? peer_gone : which->all->arrived < which->all->ranks ? in_progress : success;
      return success;
    });
  }

  int group_start() noexcept {
    return counted([&] {
      ++all_->groups[std::this_thread::get_id()].depth;
      return success;
    });
  }
  int group_end() noexcept {
    group made;
    const int code = counted([&] {
      made = std::exchange(all_->groups[std::this_thread::get_id()], {});
      return made.depth == 1 ? success : invalid_usage;
    });
    if (code == injected) {
      const std::lock_guard lock(all_->mutex);
      all_->groups.erase(std::this_thread::get_id());  // what was called in it does not take place
    }
    if (code == success && !made.calls.empty()) {
      start(std::move(made));
    }
    return code;
  }

  int broadcast(const void* from, void* to, std::uint64_t bytes, int root, const comm& which,
                fake_cuda::stream in) noexcept {
    return grouped(which, in, [&](std::vector<call>& made) {
      for (int rank = 0; rank < which->all->ranks && which->rank == root; ++rank) {
        if (rank != root) {
          made.push_back({.kind = broadcasts, .sends = true, .peer = rank, .from = from, .bytes = bytes});
        }
      }
      if (which->rank != root) {
        made.push_back({.kind = broadcasts, .peer = root, .to = to, .bytes = bytes});
      }
    });
  }
  int send(const void* from, std::uint64_t bytes, int rank, const comm& which, fake_cuda::stream in) noexcept {
    return grouped(which, in, [&](std::vector<call>& made) {
      made.push_back({.sends = true, .peer = rank, .from = from, .bytes = bytes});
    });
  }
  int receive(void* to, std::uint64_t bytes, int rank, const comm& which, fake_cuda::stream in) noexcept {
    return grouped(which, in,
                   [&](std::vector<call>& made) { made.push_back({.peer = rank, .to = to, .bytes = bytes}); });
  }
  int all_gather(const void* from, void* to, std::uint64_t bytes, const comm& which, fake_cuda::stream in) noexcept {
    return grouped(which, in, [&](std::vector<call>& made) {
      for (int rank = 0; rank < which->all->ranks; ++rank) {
        void* const place = static_cast<std::byte*>(to) + static_cast<std::uint64_t>(rank) * bytes;
        if (rank == which->rank) {
          made.push_back({.kind = gathers, .peer = rank, .from = from, .to = place, .bytes = bytes});
        } else {
          made.push_back({.kind = gathers, .sends = true, .peer = rank, .from = from, .bytes = bytes});
          made.push_back({.kind = gathers, .peer = rank, .to = place, .bytes = bytes});
        }
      }
    });
  }
  int all_reduce_max(const void* from, void* to, std::uint64_t count, const comm& which,
                     fake_cuda::stream in) noexcept {
    return grouped(which, in, [&](std::vector<call>& made) {
      const std::uint64_t bytes = count * sizeof(std::uint64_t);
      made.push_back({.kind = reductions, .peer = which->rank, .from = from, .to = to, .bytes = bytes});
      for (int rank = 0; rank < which->all->ranks; ++rank) {
        if (rank != which->rank) {
          made.push_back({.kind = reductions, .sends = true, .peer = rank, .from = from, .bytes = bytes});
          made.push_back({.kind = reductions, .peer = rank, .to = to, .bytes = bytes});
        }
      }
    });
  }

  int finalize(const comm& which) noexcept {
    return counted([&] { return which->aborted ? invalid_usage : success; });
  }
  void destroy(const comm& which) noexcept { abort(which); }
  void abort(const comm& which) noexcept {
    const std::lock_guard lock(all_->mutex);
    if (!std::exchange(which->aborted, true)) {
      --all_->left;
    }
  }

  std::string_view text_of(int code) noexcept {
    switch (code) {
      case success:
        return "no error";
      case invalid_usage:
        return "invalid usage";
      case peer_gone:
        return "remote process exited or there was a network error";
      case injected:
        return "injected failure";
      default:
        return "internal error";
    }
  }

 private:
  static constexpr int broadcasts = 1;
  static constexpr int reductions = 2;
  static constexpr int gathers = 3;

  struct call {
    int kind = 0;
    bool sends = false;
    int peer = 0;
    const void* from = nullptr;
    void* to = nullptr;
    std::uint64_t bytes = 0;
    std::shared_ptr<message> sent{};  // once it takes place
    std::size_t number = 0;           // in its channel
    bool done = false;
  };
  struct group {
    int depth = 0;
    comm which{};
    fake_cuda::stream in{};
    std::vector<call> calls{};
    bool begun = false;
  };
  struct shared {
    std::mutex mutex;
    std::map<std::uint64_t, std::shared_ptr<clique>> cliques;
    std::map<std::thread::id, group> groups;
    std::uint64_t ids = 0;
    std::size_t left = 0;
    bool broken = false;
  };

  template <class Fn>
  int counted(Fn&& fn) noexcept {
    const std::lock_guard lock(all_->mutex);
    return calls.fails_now() ? injected : fn();
  }
  /// A call within a group of one communicator and one stream, which is all that is needed here.
  template <class Fn>
  int grouped(const comm& which, fake_cuda::stream in, Fn&& fn) noexcept {
    return counted([&] {
      group& mine = all_->groups[std::this_thread::get_id()];
      if (mine.depth != 1 || which->aborted || (mine.which && (mine.which != which || mine.in != in))) {
        return invalid_usage;
      }
      mine.which = which;
      mine.in = in;
      fn(mine.calls);
      return success;
    });
  }

  void start(group made) {
    std::vector<fake_cuda_device::range> uses;
    for (const call& each : made.calls) {
      for (const void* const end : {each.from, static_cast<const void*>(each.to)}) {
        if (end != nullptr) {
          uses.push_back({end, each.bytes});
        }
      }
    }
    fake_cuda_device::stream_record* const in = made.in;
    cuda_.start(
        in,
        [all = all_, made = std::make_shared<group>(std::move(made))](fake_cuda_device& device) {
          const std::lock_guard lock(all->mutex);
          return take_place(*made, device);
        },
        uses);
  }

  static bool is_there(const message& sent) {
    const std::shared_ptr<member> sender = sent.sender.lock();
    return sender && !sender->aborted;
  }

  /// \pre both mutexes are locked. \return whether all of the group is done.
  static bool take_place(group& mine, fake_cuda_device& device) {
    member& self = *mine.which;
    if (self.aborted) {
      for (const call& each : mine.calls) {
        if (!each.sends && !each.done) {
          device.spoil(each.to, each.bytes);  // whatever had arrived
        }
      }
      return true;
    }
    clique& world = *self.all;
    const auto key = [&](const call& each) {
      return std::tuple(each.kind, each.sends ? self.rank : each.peer, each.sends ? each.peer : self.rank);
    };
    if (!std::exchange(mine.begun, true)) {
      for (call& each : mine.calls) {
        if (each.sends) {
          each.sent = std::make_shared<message>(message{.sender = mine.which, .from = each.from, .bytes = each.bytes});
          world.channels[key(each)].push_back(each.sent);
        } else if (each.peer == self.rank) {  // from itself: a copy
          device.copy_now(each.to, each.from, each.bytes);
          each.done = true;
        } else {
          each.number = self.next[key(each)]++;
        }
      }
    }
    bool done = true;
    for (call& each : mine.calls) {
      if (each.sends) {
        done = done && each.sent->taken;
        continue;
      }
      const channel& from = world.channels[key(each)];
      if (!each.done && each.number < from.size() && is_there(*from[each.number])) {
        message& arrived = *from[each.number];
        if (arrived.bytes != each.bytes) {
          device.fault(concat("rank ", self.rank, " receives ", each.bytes, " bytes where rank ", each.peer, " sends ",
                              arrived.bytes));
        } else if (each.kind == reductions) {
          device.max_now(each.to, arrived.from, each.bytes);
        } else {
          device.copy_now(each.to, arrived.from, each.bytes);
        }
        arrived.taken = true;
        each.done = true;
      }
      done = done && each.done;
    }
    return done;
  }

  std::shared_ptr<shared> all_;
  fake_cuda cuda_;
};

}  // namespace fsdpinit::testing
