#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/checksum.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/program_step.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>

namespace fsdpinit::detail {

/// Executes the steps that make checksums and compare. No allocation per step.
class step_checks {
 public:
  /// `names` has what each planned tensor's request is called. \param with  nullptr for plans without verification
  /// \throws std::bad_alloc
  step_checks(const plan& made, std::span<const tensor_request> names, const checksum* with)
      : plan_(made), names_(names) {
    for (std::optional<running_checksum>& each : running_) {
      if (with != nullptr) {
        each.emplace(*with);
      }
    }
  }

  static void clear(const program_step& step, std::byte* sums) noexcept { std::memset(sums, none_byte, step.bytes); }
  void start(const program_step& step) noexcept { running_[step.sum]->restart(step.seed); }
  void hash(const program_step& step, const std::byte* from) noexcept {
    for (std::uint64_t i = 0; i < step.count; ++i, from += step.stride) {
      running_[step.sum]->update({from, step.bytes});
    }
  }
  void store(const program_step& step, std::byte* to) const noexcept {
    const std::uint64_t made = value(step.sum);
    std::memcpy(to, &made, sizeof made);
  }

  /// \param bucket  the one that is checked \throws error{corrupted} naming a tensor of it
  void check(const program_step& step, const std::byte* from, std::size_t bucket) const {
    if (step.from.kind == region_kind::none) {
      check_copied(step);
      return;
    }
    std::uint64_t expected = 0;
    std::memcpy(&expected, from, sizeof expected);
    if (value(step.sum) != expected && expected != none) {
      throw error(errc::corrupted, name_of(step.tensor),
                  concat("its bytes, or those of a tensor that travelled with it, in bucket ", bucket,
                         " are not here as rank ", step.rank, " read them (", differs_from(step.sum, expected),
                         "); try again, and have memory and network of both checked"));
    }
  }

  /// What was read again with what is here. \throws error{corrupted} naming the first byte that differs
  void compare(const program_step& step, const std::byte* wanted, const std::byte* placed) const {
    if (std::memcmp(placed, wanted, step.bytes) == 0) {
      return;
    }
    const std::size_t at = static_cast<std::size_t>(std::mismatch(placed, placed + step.bytes, wanted).first - placed);
    throw error(errc::corrupted, name_of(step.tensor),
                concat("byte ", step.at.offset + at, " of the shard is ", std::to_integer<int>(placed[at]),
                       ", where the checkpoint has ", std::to_integer<int>(wanted[at]),
                       "; try again, and have memory and network of this rank checked"));
  }

  /// Of two lists of checksums, one for each tensor: is what each rank holds (`held`) what its peer has read `again`? Collective: a
  /// broadcast of 8 bytes from each rank and a reduction. \param peer  who has read this rank's part again
  /// \throws error{disagreement}, the same on every rank, naming the lowest rank that holds something else, its peer, and the first
  /// such tensor.
  void compare_with_peer(control_ref control, double deadline_seconds, std::size_t peer, mutable_bytes held,
                         mutable_bytes again) {
    constexpr std::uint64_t low = 0xffff'ffff;
    const std::size_t ranks = control.size();
    const std::size_t rank = control.rank();
    std::uint64_t expected = 0;
    for (std::size_t root = 0; root < ranks; ++root) {
      std::uint64_t value = root == rank ? sum_of(again) : 0;
      send(control, std::as_writable_bytes(std::span(&value, 1)), root, deadline_seconds);
      expected = root == peer ? value : expected;
    }
    const std::uint64_t mine = sum_of(held) == expected ? 0 : ((ranks - rank) << 32U) | peer;
    const std::uint64_t worst = all_reduce_max(control, mine, deadline::after(deadline_seconds));
    if (worst == 0) {
      return;
    }
    const std::size_t differing = ranks - static_cast<std::size_t>(worst >> 32U);
    send(control, again, static_cast<std::size_t>(worst & low), deadline_seconds);  // of use to that rank alone
    agreed(control, deadline_seconds, [&] {
      if (rank == differing) {
        fail_against(peer, held, again);
      }
    });
  }

 private:
  static constexpr int none_byte = 0xff;  // says that there is no checksum
  static constexpr std::uint64_t none = ~std::uint64_t{0};

  /// Never `none`.
  [[nodiscard]] std::uint64_t value(std::size_t sum) const noexcept {
    const std::uint64_t hashed = running_[sum]->value();
    return hashed == none ? none - 1 : hashed;
  }
  [[nodiscard]] std::string_view name_of(std::size_t tensor) const { return names_[plan_.tensors[tensor].request].fqn; }
  [[nodiscard]] std::string differs_from(std::size_t sum, std::uint64_t expected) const {
    return concat(running_[sum]->name(), " ", value(sum), " in place of ", expected);
  }

  void check_copied(const program_step& step) const {
    const std::uint64_t expected = value(step.sum == 0 ? 1 : 0);
    if (value(step.sum) != expected) {
      throw error(errc::corrupted, name_of(step.tensor),
                  concat("the shard differs from the tensor it was copied from (", differs_from(step.sum, expected),
                         "); try again, and have this rank's memory checked"));
    }
  }

  /// One checksum of many.
  [[nodiscard]] std::uint64_t sum_of(bytes_view sums) noexcept {
    running_.front()->restart(0);
    running_.front()->update(sums);
    return running_.front()->value();
  }

  static void send(control_ref control, mutable_bytes bytes, std::size_t root, double deadline_seconds) {
    guarded(control, [&] { control.broadcast(bytes, root, deadline::after(deadline_seconds)); });
  }

  [[noreturn]] void fail_against(std::size_t peer, bytes_view held, bytes_view again) const {
    const auto byte =
        static_cast<std::size_t>(std::mismatch(held.begin(), held.end(), again.begin()).first - held.begin());
    throw error(
        errc::disagreement, byte < held.size() ? name_of(byte / sizeof(std::uint64_t)) : std::string_view(),
        concat("this rank's part is not what rank ", peer, " reads in the checkpoint (", running_.front()->name(),
               "); give every rank the same checkpoint, or have memory and storage of both checked"));
  }

  const plan& plan_;
  std::span<const tensor_request> names_;
  std::array<std::optional<running_checksum>, 2> running_;  // of plans with verification
};

}  // namespace fsdpinit::detail
