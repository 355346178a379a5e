#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/testing/law_list.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace fsdpinit::testing::detail {

/// A way to deal the ranks to groups; the same on all ranks.
class rank_deal {
 public:
  /// Deal `number` has from 1 to `size` groups, often one of a single rank.
  rank_deal(std::size_t number, std::size_t size) noexcept : number_(number), groups_(1 + number % size), size_(size) {}

  [[nodiscard]] std::vector<std::size_t> group_of(std::size_t rank) const {
    std::vector<std::size_t> members;
    for (std::size_t r = 0; r < size_; ++r) {
      if (colour(r) == colour(rank)) {
        members.push_back(r);
      }
    }
    return members;
  }
  /// What a group decides by itself: equal for its members, different from group to group.
  [[nodiscard]] std::size_t whim_of(std::size_t rank) const noexcept { return mixed(colour(rank) + 1000); }

 private:
  [[nodiscard]] std::size_t mixed(std::size_t value) const noexcept {
    std::uint64_t out = (value + 1) * 0x9e37'79b9'7f4a'7c15U + number_ * 0xbf58'476d'1ce4'e5b9U;
    out ^= out >> 29U;
    out *= 0x94d0'49bb'1331'11ebU;
    return out >> 33U;
  }
  [[nodiscard]] std::size_t colour(std::size_t rank) const noexcept { return mixed(rank) % groups_; }

  std::size_t number_;
  std::size_t groups_;
  std::size_t size_;
};

/// The laws of `GroupCommunicator`.
template <class C>
class group_laws {
 public:
  group_laws(C& comm, law_list& laws, double deadline_seconds)
      : comm_(comm), rank_(comm.rank()), size_(comm.size()), seconds_(deadline_seconds), laws_(laws) {}

  void run() {
    laws_.run("operations of groups", [&] { mixed_operations(); });
    if constexpr (InterruptibleCommunicator<C>) {
      laws_.run("interruption of groups", [&] { interrupt_from_outside(); });
    }
  }

 private:
  [[nodiscard]] deadline limit() const noexcept { return deadline::after(seconds_); }

  struct flight {
    std::size_t number = 0;
    std::vector<std::size_t> group;
    std::size_t root = 0;
    bool scatter = false;
    std::vector<std::vector<std::byte>> payload;  // at the root of a scatter
    std::vector<bytes_view> windows;
    std::vector<std::byte> own;
    std::optional<typename C::token> token;
  };

  [[nodiscard]] std::uint64_t bytes_for(const flight& each, std::size_t rank) const noexcept {
    return each.scatter ? (rank + each.number) % 3 * (97 * rank + 4099) : each.number % 4 * 5003;
  }
  [[nodiscard]] std::vector<std::byte> content_for(const flight& each, std::size_t rank) const {
    return patterned(bytes_for(each, rank), 8 * each.number + each.root + (each.scatter ? 100 * rank : 0));
  }

  /// Place `number` in the order of operations: broadcasts and scatters in disjoint groups, or one of all ranks.
  [[nodiscard]] flight prepare(std::size_t number) const {
    const rank_deal deal(number, size_);
    flight out;
    out.number = number;
    out.group = deal.group_of(rank_);
    out.root = out.group[deal.whim_of(rank_) % out.group.size()];
    out.scatter = deal.whim_of(rank_) / 64 % 2 == 0;
    out.own = patterned(bytes_for(out, rank_), 3000 + rank_);
    if (rank_ != out.root) {
      return out;
    }
    if (!out.scatter) {
      out.own = content_for(out, rank_);
      return out;
    }
    out.own = {};
    for (std::size_t r = 0; r < size_; ++r) {
      const bool outside = deal.group_of(r) != out.group;
      out.payload.push_back(outside ? patterned(5, r) : content_for(out, r));  // somebody else's, to be ignored
    }
    for (const std::vector<std::byte>& part : out.payload) {
      out.windows.emplace_back(part);
    }
    return out;
  }

  void start(flight& each) {
    // All ranks: with a group and without are the same, on this rank and that.
    const std::vector<std::size_t> nobody;
    const bool without = each.group.size() == size_ && (rank_ + each.number) % 2 == 0;
    if (each.scatter) {
      each.token.emplace(comm_.start_scatter(each.windows, each.own, each.root, without ? nobody : each.group));
    } else {
      each.token.emplace(without ? comm_.start_broadcast(each.own, each.root)
                                 : comm_.start_broadcast(each.own, each.root, each.group));
    }
  }

  void finish(flight& each) {
    comm_.wait(*each.token, limit());
    each.token.reset();
    if (rank_ != each.root) {
      laws_.expect(each.own == content_for(each, rank_),
                   concat(each.scatter ? "scatter" : "broadcast", " of ", each.own.size(), " bytes from rank ",
                          each.root, " in a group of ", each.group.size(), " gives what its root sent"));
    } else if (!each.scatter) {
      laws_.expect(each.own == content_for(each, rank_), "a broadcast in a group leaves its root's buffer as it is");
    }
  }

  void mixed_operations() {
    constexpr std::size_t places = 60;
    constexpr std::size_t in_flight = 3;
    std::vector<flight> flights;
    for (std::size_t number = 0; number < places; ++number) {
      flights.push_back(prepare(number));
    }
    for (std::size_t number = 0; number < places + in_flight; ++number) {
      if (number >= in_flight) {
        finish(flights[number - in_flight]);
      }
      if (number < places) {
        start(flights[number]);
      }
    }
  }

  /// Rank 1 waits for rank 0, which never joins it; the last rank, of no group of theirs, interrupts.
  void interrupt_from_outside() {
    if (size_ == 1) {
      return;
    }
    barrier(comm_);
    std::vector<std::byte> buffer(100);
    if (rank_ == size_ - 1) {
      comm_.interrupt();
    } else if (rank_ == 1) {
      const std::size_t pair[] = {0, 1};
      typename C::token token = comm_.start_broadcast(buffer, 0, pair);
      laws_.expect_throw(errc::interrupted, "interrupt() reaches a member of a group from a rank outside of it",
                         [&] { comm_.wait(token, limit()); });
    }
    barrier(comm_);
    // Word of it may still be on its way, and nothing here waits for anybody else.
    const std::size_t alone[] = {rank_};
    const deadline patience = limit();
    std::optional<error> thrown;
    while (!thrown && !patience.passed()) {
      typename C::token token = comm_.start_broadcast(buffer, rank_, alone);
      thrown = attempt([&] { comm_.wait(token, limit()); });
    }
    laws_.expect(thrown && thrown->code() == errc::interrupted, "interrupt() reaches ranks whose group is themselves");
    barrier(comm_);
    begin_anew(comm_);
    mixed_operations();
  }

  C& comm_;
  std::size_t rank_;
  std::size_t size_;
  double seconds_;
  law_list& laws_;
};

}  // namespace fsdpinit::testing::detail
