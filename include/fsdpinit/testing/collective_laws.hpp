#pragma once

#include <fsdpinit/communicators/collectives.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/testing/group_laws.hpp>
#include <fsdpinit/testing/law_list.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace fsdpinit::testing::detail {

/// A number whose sums depend on their order: of either sign, and of magnitudes that are far apart.
[[nodiscard]] inline float summand(std::size_t rank, std::uint64_t at) noexcept {
  std::uint64_t bits = (rank + 1) * 0x9e37'79b9'7f4a'7c15U + at * 0xbf58'476d'1ce4'e5b9U;
  bits ^= bits >> 31U;
  bits *= 0x94d0'49bb'1331'11ebU;
  const auto mantissa = static_cast<float>(static_cast<std::int64_t>(bits >> 41U) - (std::int64_t{1} << 22U));
  const auto scale = static_cast<float>(std::uint64_t{1} << (bits % 20U));
  return mantissa / scale;
}

[[nodiscard]] inline std::vector<float> summands(std::size_t rank, std::uint64_t count) {
  std::vector<float> out(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    out[i] = summand(rank, i);
  }
  return out;
}

/// What the rank at `index` of the group gets of `count` numbers a part: one addition after the other, as it is defined.
[[nodiscard]] inline std::vector<float> ordered_sums(std::span<const std::size_t> group, std::size_t index,
                                                     std::uint64_t count) {
  std::vector<float> out(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    out[i] = summand(group[0], index * count + i);
    for (std::size_t k = 1; k < group.size(); ++k) {
      out[i] += summand(group[k], index * count + i);
    }
  }
  return out;
}

[[nodiscard]] inline bool same_bits(std::span<const float> a, std::span<const float> b) noexcept {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

/// The laws of `CollectiveCommunicator`, for `fsdpinit::all_gather` and `reduce_scatter` too where a communicator does not model it.
template <class C>
class collective_laws {
 public:
  collective_laws(C& comm, law_list& laws, double deadline_seconds)
      : comm_(comm), rank_(comm.rank()), size_(comm.size()), seconds_(deadline_seconds), laws_(laws) {}

  void run() {
    laws_.run("all_gather", [&] { all_gathers(); });
    run_failures("all_gather", [&](deadline limit) {
      const std::vector<std::byte> own(100);
      std::vector<std::byte> all(100 * size_);
      fsdpinit::all_gather(comm_, own, all, limit);
    });
    laws_.run("reduce_scatter", [&] { reduce_scatters(); });
    run_failures("reduce_scatter", [&](deadline limit) {
      std::vector<float> contribution(25 * size_);
      std::vector<float> own(25);
      fsdpinit::reduce_scatter(comm_, contribution, own, limit);
    });
  }

 private:
  [[nodiscard]] deadline limit() const noexcept { return deadline::after(seconds_); }
  [[nodiscard]] static std::string_view text_of(bool in_place) noexcept { return in_place ? ", in place" : ""; }

  /// The largest are more than anything that moves at once, and no multiple of it.
  static constexpr std::uint64_t gathered_bytes[] = {0, 1, 3, 1000, 300'007};
  static constexpr std::uint64_t reduced_numbers[] = {0, 1, 3, 1000, 140'003};

  void all_gathers() {
    const std::vector<std::size_t> everyone = rank_deal(0, size_).group_of(rank_);
    for (const std::uint64_t bytes : gathered_bytes) {
      gather(everyone, bytes, false, false);
      gather(everyone, bytes % 5000, true, false);
    }
    for (std::size_t number = 0; number < 3 * size_; ++number) {
      const rank_deal deal(number, size_);
      gather(deal.group_of(rank_), number % 7 == 6 ? 270'001 : deal.whim_of(rank_) % 500, number % 2 == 0, true);
    }
  }

  void gather(std::span<const std::size_t> group, std::uint64_t bytes, bool in_place, bool with_group) {
    const std::size_t index = index_of(group);
    std::vector<std::byte> wanted;
    for (const std::size_t member : group) {
      const std::vector<std::byte> part = patterned(bytes, 50 + member);
      wanted.insert(wanted.end(), part.begin(), part.end());
    }
    const std::vector<std::byte> mine = patterned(bytes, 50 + rank_);
    std::vector<std::byte> all = patterned(wanted.size(), 4000);
    const mutable_bytes place = mutable_bytes(all).subspan(index * bytes, bytes);
    if (in_place && bytes != 0) {
      std::memcpy(place.data(), mine.data(), bytes);
    }
    const bytes_view own = in_place ? bytes_view(place) : bytes_view(mine);
    if (with_group) {
      fsdpinit::all_gather(comm_, own, all, group, limit());
    } else {
      fsdpinit::all_gather(comm_, own, all, limit());
    }
    laws_.expect(all == wanted, concat("all_gather of ", bytes, " bytes from each of ", group.size(), " ranks",
                                       text_of(in_place), " gives all parts in the order of ranks"));
  }

  void reduce_scatters() {
    const std::vector<std::size_t> everyone = rank_deal(0, size_).group_of(rank_);
    for (const std::uint64_t numbers : reduced_numbers) {
      reduce(everyone, numbers, false, false);
      reduce(everyone, numbers % 5000, true, false);
    }
    for (std::size_t number = 0; number < 3 * size_; ++number) {
      const rank_deal deal(number, size_);
      reduce(deal.group_of(rank_), number % 7 == 6 ? 70'001 : deal.whim_of(rank_) % 500, number % 2 == 0, true);
    }
  }

  void reduce(std::span<const std::size_t> group, std::uint64_t numbers, bool in_place, bool with_group) {
    const std::size_t index = index_of(group);
    std::vector<float> contribution = summands(rank_, numbers * group.size());
    std::vector<float> apart(in_place ? 0 : numbers, -1.0F);
    const std::span<float> own =
        in_place ? std::span<float>(contribution).subspan(index * numbers, numbers) : std::span<float>(apart);
    if (with_group) {
      fsdpinit::reduce_scatter(comm_, contribution, own, group, limit());
    } else {
      fsdpinit::reduce_scatter(comm_, contribution, own, limit());
    }
    laws_.expect(same_bits(own, ordered_sums(group, index, numbers)),
                 concat("reduce_scatter of ", numbers, " numbers for each of ", group.size(), " ranks",
                        text_of(in_place), " adds in the order of ranks, to the bit"));
  }

  [[nodiscard]] std::size_t index_of(std::span<const std::size_t> group) const noexcept {
    std::size_t index = 0;
    while (group[index] != rank_) {
      ++index;
    }
    return index;
  }

  /// The last rank interrupts in place of taking part, or does not come at all.
  template <class Call>
  void run_failures(std::string_view name, Call&& call) {
    if constexpr (InterruptibleCommunicator<C>) {
      if (size_ > 1) {
        laws_.run(concat("interruption of ", name), [&] {
          const bool quits = rank_ == size_ - 1;
          barrier(comm_);
          if (quits) {
            comm_.interrupt();
          } else {
            laws_.expect_throw(errc::interrupted, concat(name, " with a rank that will never join ends by interrupt()"),
                               [&] { call(limit()); });
          }
          recover();
          call(limit());
          if constexpr (!requires { comm_.poisoned(); }) {
            if (!quits) {
              laws_.expect_throw(errc::peer_lost, concat(name, " throws peer_lost once its deadline has passed"),
                                 [&] { call(deadline::after(0.02)); });
            }
            barrier(comm_);
            comm_.interrupt();
            recover();
            call(limit());
          }
        });
      }
    }
  }
  void recover() {
    barrier(comm_);
    begin_anew(comm_);
    barrier(comm_);
  }

  C& comm_;
  std::size_t rank_;
  std::size_t size_;
  double seconds_;
  law_list& laws_;
};

}  // namespace fsdpinit::testing::detail
