#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/testing/collective_laws.hpp>
#include <fsdpinit/testing/group_laws.hpp>
#include <fsdpinit/testing/law_list.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::testing {

namespace detail {

inline constexpr std::uint64_t payload_sizes[] = {0, 1, 7, 4096, 256 * kib + 3};

/// Window of rank r in round k: sizes differ from rank to rank, and each rank has an empty one now and then.
[[nodiscard]] inline std::uint64_t window_size(std::size_t rank, std::uint64_t round) noexcept {
  return (rank + round) % 3 == 0 ? 0 : 97 * (rank + 1) + 8191 * round;
}

template <class C>
class communicator_laws {
 public:
  communicator_laws(C& comm, double deadline_seconds)
      : comm_(comm), rank_(comm.rank()), size_(comm.size()), seconds_(deadline_seconds) {}

  violations run() {
    laws_.expect(rank_ < size_, "rank() < size()");
    laws_.run("broadcast", [&] { broadcast(); });
    if constexpr (requires { std::as_const(comm_).node_of(0); }) {
      laws_.run("node_of", [&] { node_of(); });
    }
    if constexpr (ScatterCommunicator<C>) {
      laws_.run("scatter", [&] { scatter(); });
    }
    if constexpr (NonBlockingCommunicator<C>) {
      laws_.run("start_broadcast", [&] { start_broadcast(); });
    }
    if constexpr (requires(typename C::token& token) { comm_.view(token, limit()); }) {
      laws_.run("start_viewed_broadcast", [&] { start_viewed_broadcast(); });
    }
    if constexpr (GroupCommunicator<C>) {
      laws_.run("start_scatter", [&] { start_scatter(); });
      group_laws(comm_, laws_, seconds_).run();
    }
    if constexpr (CollectiveCommunicator<C>) {
      collective_laws(comm_, laws_, seconds_).run();
    }
    if constexpr (reduces || reduces_within_a_deadline) {
      laws_.run("all_reduce_max", [&] { all_reduce_max(); });
    }
    if constexpr (InterruptibleCommunicator<C>) {
      laws_.run("interrupt", [&] { interrupt(); });
      if constexpr (!requires { comm_.poisoned(); }) {  // such a one is of no use after a deadline
        laws_.run("deadline", [&] { late_peer(); });
      }
    }
    if constexpr (FailableControl<C>) {
      laws_.run("fail", [&] { fail(); });
    }
    laws_.run("broadcast at the end", [&] { broadcast(); });
    return laws_.take();
  }

 private:
  static constexpr bool reduces = requires(C& comm, std::uint64_t value) { comm.all_reduce_max(value); };
  static constexpr bool reduces_within_a_deadline =
      requires(C& comm, std::uint64_t value, deadline limit) { comm.all_reduce_max(value, limit); };

  [[nodiscard]] deadline limit() const noexcept { return deadline::after(seconds_); }

  void broadcast() {
    for (std::size_t root = 0; root < size_; ++root) {
      for (const std::uint64_t size : payload_sizes) {
        const std::vector<std::byte> wanted = patterned(size, root);
        std::vector<std::byte> buffer = rank_ == root ? wanted : patterned(size, 1000 + rank_);
        comm_.broadcast(buffer, root);
        laws_.expect(buffer == wanted,
                     concat("broadcast of ", size, " bytes from rank ", root, " gives the root's bytes"));
      }
    }
  }

  void node_of() {
    for (std::size_t r = 0; r < size_; ++r) {
      const std::size_t node = std::as_const(comm_).node_of(r);
      laws_.expect(node <= r && std::as_const(comm_).node_of(node) == node,
                   concat("node_of(", r, ") is the lowest rank of its node"));
      for (std::size_t root = 0; root < size_; ++root) {
        std::uint64_t theirs = node;
        comm_.broadcast(std::as_writable_bytes(std::span(&theirs, 1)), root);
        laws_.expect(theirs == node, concat("node_of(", r, ") is the same on every rank"));
      }
    }
  }

  struct scattered {
    std::vector<std::vector<std::byte>> payload;
    std::vector<bytes_view> windows;  // at the root
    std::vector<std::byte> own;
  };
  /// The root gives no memory for its own part: its window is in its place already.
  [[nodiscard]] scattered prepare(std::size_t root, std::uint64_t round) const {
    scattered out;
    if (rank_ != root) {
      out.own = patterned(window_size(rank_, round), 2000);
      return out;
    }
    for (std::size_t r = 0; r < size_; ++r) {
      out.payload.push_back(patterned(window_size(r, round), 10 * root + r));
    }
    for (const std::vector<std::byte>& part : out.payload) {
      out.windows.emplace_back(part);
    }
    return out;
  }
  void expect_scattered(const scattered& got, std::size_t root, std::uint64_t round) {
    if (rank_ != root) {
      laws_.expect(
          got.own == patterned(window_size(rank_, round), 10 * root + rank_),
          concat("scatter of ", window_size(rank_, round), " bytes from rank ", root, " gives this rank's window"));
    }
  }

  void scatter() {
    for (std::size_t root = 0; root < size_; ++root) {
      for (std::uint64_t round = 0; round < 4; ++round) {
        scattered part = prepare(root, round);
        comm_.scatter(part.windows, part.own, root);
        expect_scattered(part, root, round);
      }
    }
  }

  void start_broadcast() {
    for (const std::uint64_t size : payload_sizes) {
      // One from each root at the same time, and a blocking operation in between.
      std::vector<std::vector<std::byte>> buffers;
      std::vector<typename C::token> tokens;
      for (std::size_t root = 0; root < size_; ++root) {
        buffers.push_back(patterned(size, rank_ == root ? root : 1000 + rank_));
      }
      for (std::size_t root = 0; root < size_; ++root) {
        tokens.push_back(comm_.start_broadcast(buffers[root], root));
      }
      barrier(comm_);
      for (std::size_t root = 0; root < size_; ++root) {
        comm_.wait(tokens[root], limit());
        laws_.expect(buffers[root] == patterned(size, root),
                     concat("started broadcast of ", size, " bytes from rank ", root, " gives the root's bytes"));
      }
    }
  }

  /// Every other rank has it copied.
  void start_viewed_broadcast() {
    for (std::size_t root = 0; root < size_; ++root) {
      for (const std::uint64_t size : payload_sizes) {
        std::vector<std::byte> buffer = patterned(size, rank_ == root ? root : 1000 + rank_);
        const bool views = rank_ != root && (rank_ - root) % 2 == 1;
        typename C::token token =
            views ? comm_.start_viewed_broadcast(buffer, root, {}) : comm_.start_broadcast(buffer, root);
        const std::vector<std::byte> wanted = patterned(size, root);
        if (views) {
          const bytes_view lies = comm_.view(token, limit());
          laws_.expect(std::equal(lies.begin(), lies.end(), wanted.begin(), wanted.end()),
                       concat("view of a broadcast of ", size, " bytes from rank ", root, " has the root's bytes"));
        }
        comm_.wait(token, limit());
        laws_.expect(views || buffer == wanted, concat("broadcast of ", size, " bytes from rank ", root,
                                                       " that others view gives the root's bytes"));
      }
    }
  }

  void start_scatter() {
    for (std::size_t root = 0; root < size_; ++root) {
      std::vector<scattered> parts;
      for (std::uint64_t round = 0; round < 4; ++round) {
        parts.push_back(prepare(root, round));
      }
      std::vector<typename C::token> tokens;
      for (scattered& part : parts) {
        tokens.push_back(comm_.start_scatter(part.windows, part.own, root, {}));
      }
      for (std::uint64_t round = 0; round < 4; ++round) {
        comm_.wait(tokens[round], limit());
        expect_scattered(parts[round], root, round);
      }
    }
  }

  [[nodiscard]] std::uint64_t reduced(std::uint64_t value) {
    if constexpr (reduces_within_a_deadline) {
      return comm_.all_reduce_max(value, limit());
    } else {
      return comm_.all_reduce_max(value);
    }
  }
  void all_reduce_max() {
    laws_.expect(reduced(0) == 0, "all_reduce_max of zeros is 0");
    for (std::size_t most = 0; most < size_; ++most) {
      laws_.expect(reduced(rank_ == most ? 1000 + most : rank_) == 1000 + most,
                   concat("all_reduce_max finds the maximum at rank ", most));
    }
    laws_.expect(reduced(rank_ == 0 ? ~std::uint64_t{0} : 0) == ~std::uint64_t{0}, "all_reduce_max carries 64 bits");
    laws_.expect(reduced(1) == 1, "all_reduce_max forgets the reduction before");
  }

  /// The last rank interrupts in place of taking part.
  void interrupt() {
    if (size_ == 1) {
      return;
    }
    for (int round = 0; round < 2; ++round) {
      barrier(comm_);
      const std::size_t quitter = size_ - 1;
      std::vector<std::byte> buffer = patterned(4096, rank_);
      if (rank_ == quitter) {
        comm_.interrupt();
      } else {
        typename C::token token = comm_.start_broadcast(buffer, quitter);
        laws_.expect_throw(errc::interrupted, "a started operation whose root will never join ends by interrupt()",
                           [&] { comm_.wait(token, limit()); });
      }
      barrier(comm_);
      typename C::token token = comm_.start_broadcast(buffer, 0);
      laws_.expect_throw(errc::interrupted, "an operation started after interrupt() is interrupted",
                         [&] { comm_.wait(token, limit()); });
      barrier(comm_);
      begin_anew(comm_);
      start_broadcast();
    }
  }

  /// Rank 0 does not come: the others give up at their deadline, early in the life of the test.
  void late_peer() {
    if (size_ == 1) {
      return;
    }
    std::vector<std::byte> buffer = patterned(64, rank_);
    if (rank_ != 0) {
      typename C::token token = comm_.start_broadcast(buffer, 0);
      laws_.expect_throw(errc::peer_lost, "wait() throws peer_lost once its deadline has passed",
                         [&] { comm_.wait(token, deadline::after(0.02)); });
    }
    barrier(comm_);
    comm_.interrupt();
    barrier(comm_);
    begin_anew(comm_);
    start_broadcast();
  }

  /// One rank after the other reports a failure while its peers wait for it, or are still in the operation before.
  void fail() {
    for (std::size_t failing = 0; failing < size_; ++failing) {
      const error cause(errc::io, "subject", concat("failure of ", failing),
                        {.rank = static_cast<std::int32_t>(failing), .native_code = 5});
      const auto thrown = attempt([&] {
        barrier(comm_);
        if (rank_ == failing) {
          throw error(cause);
        }
        std::byte nothing{};
        comm_.broadcast({&nothing, 1}, failing);
      });
      laws_.expect(thrown.has_value(), "a control operation that waits for a failed rank throws");
      const error got = comm_.fail(thrown.value_or(cause));
      laws_.expect(got.code() == cause.code() && got.text() == cause.text() && got.subject() == cause.subject() &&
                       got.rank() == cause.rank() && got.native_code() == cause.native_code(),
                   concat("fail() returns the failure of rank ", failing, " on every rank"));
      if constexpr (InterruptibleCommunicator<C>) {
        begin_anew(comm_);  // a failure of the control channel interrupts started operations as well
      }
    }
    barrier(comm_);
  }

  C& comm_;
  std::size_t rank_;
  std::size_t size_;
  double seconds_;
  law_list laws_;
};

}  // namespace detail

/// The laws of `Communicator`, and of every refinement that `C` models. Collective: call it on every rank, each with
/// its own handle, with nothing in flight. Moves about 3 MiB per pair of ranks. A communicator that blocks where it
/// should not hangs here: give the test a deadline.
template <Communicator C>
[[nodiscard]] violations check_communicator(C& comm, double deadline_seconds = 30) {
  return detail::communicator_laws<C>(comm, deadline_seconds).run();
}

}  // namespace fsdpinit::testing
