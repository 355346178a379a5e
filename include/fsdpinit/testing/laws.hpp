#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/control/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// \file
/// What the concepts promise beyond their syntax, as checks that the author of an adapter runs too, under any test
/// framework. Each returns the laws that were violated, in words; empty: none.

namespace fsdpinit::testing {

using violations = std::vector<std::string>;

namespace detail {

[[nodiscard]] inline std::byte pattern(std::uint64_t seed, std::uint64_t at) noexcept {
  return static_cast<std::byte>((seed * 131 + at * 7 + at / 251 + 1) & 0xffU);
}

[[nodiscard]] inline std::vector<std::byte> patterned(std::uint64_t bytes, std::uint64_t seed) {
  std::vector<std::byte> out(bytes);
  for (std::uint64_t i = 0; i < bytes; ++i) {
    out[i] = pattern(seed, i);
  }
  return out;
}

/// Runs one check; what it throws is a violation.
class law_list {
 public:
  void expect(bool holds, std::string_view law) {
    if (!holds) {
      broken_.emplace_back(law);
    }
  }
  template <class Fn>
  void run(std::string_view law, Fn&& fn) {
    if (const auto thrown = attempt(std::forward<Fn>(fn))) {
      broken_.push_back(concat(law, ": threw ", thrown->what()));
    }
  }
  /// `fn` throws an error of that code.
  template <class Fn>
  void expect_throw(errc code, std::string_view law, Fn&& fn) {
    const auto thrown = attempt(std::forward<Fn>(fn));
    if (!thrown || thrown->code() != code) {
      broken_.push_back(concat(law, thrown ? concat(": threw ", thrown->what()) : ": threw nothing"));
    }
  }
  [[nodiscard]] violations take() noexcept { return std::move(broken_); }

 private:
  violations broken_;
};

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
    if constexpr (ScatterCommunicator<C>) {
      laws_.run("scatter", [&] { scatter(); });
    }
    if constexpr (NonBlockingCommunicator<C>) {
      laws_.run("start_broadcast", [&] { start_broadcast(); });
    }
    if constexpr (NonBlockingScatterCommunicator<C>) {
      laws_.run("start_scatter", [&] { start_scatter(); });
    }
    if constexpr (ReducingControl<C>) {
      laws_.run("all_reduce_max", [&] { all_reduce_max(); });
    }
    if constexpr (InterruptibleCommunicator<C>) {
      laws_.run("interrupt", [&] { interrupt(); });
      if constexpr (!PoisonableCommunicator<C>) {  // such a one is of no use after a deadline
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
  [[nodiscard]] deadline limit() const noexcept { return deadline::after(seconds_); }

  /// All ranks have come here.
  void barrier() {
    for (std::size_t root = 0; root < size_; ++root) {
      std::byte nothing{};
      comm_.broadcast({&nothing, 1}, root);
    }
  }

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
      barrier();
      for (std::size_t root = 0; root < size_; ++root) {
        comm_.wait(tokens[root], limit());
        laws_.expect(buffers[root] == patterned(size, root),
                     concat("started broadcast of ", size, " bytes from rank ", root, " gives the root's bytes"));
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
        tokens.push_back(comm_.start_scatter(part.windows, part.own, root));
      }
      for (std::uint64_t round = 0; round < 4; ++round) {
        comm_.wait(tokens[round], limit());
        expect_scattered(parts[round], root, round);
      }
    }
  }

  [[nodiscard]] std::uint64_t reduced(std::uint64_t value) {
    if constexpr (requires { comm_.all_reduce_max(value, limit()); }) {
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
      barrier();
      const std::size_t quitter = size_ - 1;
      std::vector<std::byte> buffer = patterned(4096, rank_);
      if (rank_ == quitter) {
        comm_.interrupt();
      } else {
        typename C::token token = comm_.start_broadcast(buffer, quitter);
        laws_.expect_throw(errc::interrupted, "a started operation whose root will never join ends by interrupt()",
                           [&] { comm_.wait(token, limit()); });
      }
      barrier();
      typename C::token token = comm_.start_broadcast(buffer, 0);
      laws_.expect_throw(errc::interrupted, "an operation started after interrupt() is interrupted",
                         [&] { comm_.wait(token, limit()); });
      barrier();
      comm_.rearm();
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
    barrier();
    comm_.interrupt();
    barrier();
    comm_.rearm();
    start_broadcast();
  }

  /// One rank after the other reports a failure while its peers wait for it, or are still in the operation before.
  void fail() {
    for (std::size_t failing = 0; failing < size_; ++failing) {
      const error cause(errc::io, "subject", concat("failure of ", failing),
                        {.rank = static_cast<std::int32_t>(failing), .native_code = 5});
      const auto thrown = attempt([&] {
        barrier();
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
        comm_.rearm();  // a failure of the control channel interrupts started operations as well
      }
    }
    barrier();
  }

  C& comm_;
  std::size_t rank_;
  std::size_t size_;
  double seconds_;
  law_list laws_;
};

}  // namespace detail

/// The laws of `Communicator`, and of every refinement that `C` models. Collective: call it on every rank, each with
/// its own handle, with nothing in flight. Moves about 1 MiB per pair of ranks. A communicator that blocks where it
/// should not hangs here: give the test a deadline.
template <Communicator C>
[[nodiscard]] violations check_communicator(C& comm, double deadline_seconds = 30) {
  return detail::communicator_laws<C>(comm, deadline_seconds).run();
}

/// The laws of `StateDictSource`. Reads every tensor six times into memory: for small state dicts.
template <StateDictSource S>
[[nodiscard]] violations check_source(S& source) {
  detail::law_list laws;
  const std::span<const tensor_descriptor> tensors = std::as_const(source).tensors();
  std::set<std::string_view> names;
  for (const tensor_descriptor& tensor : tensors) {
    laws.expect(names.insert(tensor.name).second, concat("names are unique: ", printable(tensor.name)));
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    laws.run(concat("reading ", printable(tensors[i].name)), [&] {
      const std::uint64_t size = byte_size(tensors[i]);
      std::vector<std::byte> whole(size, std::byte{1});
      std::vector<std::byte> again(size, std::byte{2});
      source.read(i, 0, whole);
      source.read(i, 0, again);
      laws.expect(whole == again, concat(printable(tensors[i].name), ": a second read gives the same bytes"));
      for (const std::uint64_t piece : {std::uint64_t{1}, std::uint64_t{7}, size / 2 + 1}) {
        if (size / piece > 4096) {
          continue;
        }
        std::vector<std::byte> forward(size, std::byte{3});
        std::vector<std::byte> backward(size, std::byte{4});
        for (std::uint64_t at = 0; at < size; at += piece) {
          const std::uint64_t length = size - at < piece ? size - at : piece;
          source.read(i, at, mutable_bytes(forward).subspan(at, length));
          source.read(i, size - at - length, mutable_bytes(backward).subspan(size - at - length, length));
        }
        laws.expect(forward == whole,
                    concat(printable(tensors[i].name), ": pieces of ", piece, " bytes are the whole"));
        laws.expect(backward == whole, concat(printable(tensors[i].name), ": order of reading does not matter"));
      }
      source.read(i, 0, {});
      source.read(i, size, {});
    });
  }
  laws.expect(std::as_const(source).tensors().data() == tensors.data(), "tensors() stays where it is");
  return laws.take();
}

/// The laws of `MemorySpace`. \pre nobody else allocates from it meanwhile.
template <MemorySpace S>
[[nodiscard]] violations check_memory(S memory) {
  detail::law_list laws;
  laws.run("memory", [&] {
    typename S::queue order{};
    const std::uint64_t before = memory.accounted();
    memory.restart_peak();
    laws.expect(memory.accounted_peak() == before, "restart_peak() makes the peak what is allocated now");

    S other = memory;
    for (const std::uint64_t size : {std::uint64_t{1}, std::uint64_t{255}, std::uint64_t{4097}, 3 * mib + 5}) {
      std::byte* const address = memory.allocate(size);
      std::byte* const second = other.allocate(size);
      laws.expect(reinterpret_cast<std::uintptr_t>(address) % 256 == 0, concat(size, " bytes are aligned to 256"));
      laws.expect(address + size <= second || second + size <= address, "two allocations do not overlap");
      laws.expect(memory.accounted() == before + 2 * size && other.accounted() == before + 2 * size,
                  "copies of a space share one account, exact to the byte");

      const std::vector<std::byte> wanted = detail::patterned(size, size);
      std::vector<std::byte> got(size);
      memory.copy_in(address, wanted.data(), size, size, 1, order);
      memory.copy_out(got.data(), address, size, order);
      memory.wait(order);
      laws.expect(got == wanted, concat(size, " bytes copied in and out are the same"));
      memory.copy_in(address, wanted.data(), 0, 0, 0, order);
      memory.copy_out(got.data(), address, size, order);
      memory.wait(order);
      laws.expect(got == wanted, "copying nothing changes nothing");

      other.deallocate(second, size);
      memory.deallocate(address, size);
      laws.expect(memory.accounted() == before, "deallocation gives the account back what it was");
      laws.expect(memory.accounted_peak() == before + 2 * size, "the peak stays");
      memory.restart_peak();
    }

    constexpr std::uint64_t stride = 11;
    constexpr std::uint64_t count = 50;
    const std::vector<std::byte> wide = detail::patterned(stride * count, 3);
    for (const std::uint64_t run : {std::uint64_t{1}, std::uint64_t{4}, stride}) {
      std::byte* const address = memory.allocate(run * count + 2);
      std::vector<std::byte> wanted(run * count + 2, std::byte{0xee});
      memory.copy_in(address, wanted.data(), wanted.size(), wanted.size(), 1, order);
      memory.copy_in(address + 1, wide.data(), stride, run, count, order);
      for (std::uint64_t i = 0; i < count * run; ++i) {
        wanted[1 + i] = wide[i / run * stride + i % run];
      }
      std::vector<std::byte> got(wanted.size());
      memory.copy_out(got.data(), address, got.size(), order);
      memory.wait(order);
      laws.expect(got == wanted, concat("copy_in packs runs of ", run, " of ", stride, " bytes, in queue order"));
      memory.deallocate(address, run * count + 2);
    }
  });
  return laws.take();
}

/// The laws of `ParameterSlot`. Leaves the slot on meta.
template <ParameterSlot T>
[[nodiscard]] violations check_slot(T& slot) {
  using traits = slot_traits<T>;
  detail::law_list laws;
  laws.run("slot", [&] {
    const slot_role role = traits::role(std::as_const(slot));
    const dtype type = traits::dtype(std::as_const(slot));
    const shape extents = traits::shape(std::as_const(slot));
    const placement how = traits::placement(std::as_const(slot));
    const auto expect_same = [&](std::string_view when) {
      laws.expect(traits::role(std::as_const(slot)) == role && traits::dtype(std::as_const(slot)) == type &&
                      extents == traits::shape(std::as_const(slot)) &&
                      how == placement(traits::placement(std::as_const(slot))),
                  concat(when, " keeps role, dtype, global shape and placement"));
    };
    const auto storage = [&] {
      const std::shared_ptr<std::byte> made = std::make_shared<std::byte>();
      return std::pair{made, local_shard{.shape = extents, .offset = 0, .bytes = 1, .data = made}};
    };
    traits::drop(slot);
    expect_same("drop()");
    laws.expect(traits::data(std::as_const(slot)) == nullptr, "data is nullptr on meta");
    traits::drop(slot);
    laws.expect(traits::data(std::as_const(slot)) == nullptr, "a slot on meta may be dropped again");

    auto [first, first_part] = storage();
    traits::adopt(slot, std::move(first_part));
    expect_same("adopt()");
    laws.expect(traits::data(std::as_const(slot)) == first.get(), "data is the adopted storage");
    first_part = {};
    laws.expect(first.use_count() > 1, "adopt() shares ownership of the storage");

    auto [second, second_part] = storage();
    traits::adopt(slot, std::move(second_part));
    second_part = {};
    laws.expect(traits::data(std::as_const(slot)) == second.get(), "adopt() replaces what was there");
    laws.expect(first.use_count() == 1, "adopt() lets go of what was there");
    traits::drop(slot);
    laws.expect(second.use_count() == 1, "drop() lets go of the storage");
    laws.expect(traits::data(std::as_const(slot)) == nullptr, "data is nullptr after drop()");
  });
  return laws.take();
}

/// The laws of `ShardableModule`.
template <ShardableModule M>
[[nodiscard]] violations check_module(M& module) {
  detail::law_list laws;
  laws.run("module", [&] {
    const auto walk = [&] {
      std::vector<std::pair<std::string, const void*>> out;
      module_traits<M>::visit_slots(module, [&](std::string_view fqn, auto& slot) {
        static_assert(ParameterSlot<std::remove_cvref_t<decltype(slot)>>,
                      "fsdpinit: the module visits a type that does not model ParameterSlot");
        out.emplace_back(std::string(fqn), &slot);
      });
      return out;
    };
    const auto slots = walk();
    std::set<std::string_view> names;
    std::set<const void*> places;
    for (const auto& [fqn, slot] : slots) {
      laws.expect(names.insert(fqn).second, concat("names are unique: ", printable(fqn)));
      laws.expect(places.insert(slot).second, concat("each slot is visited once: ", printable(fqn)));
    }
    laws.expect(walk() == slots, "a second visit shows the same slots in the same order");
    for (const std::vector<std::string>& group : tie_groups(std::as_const(module))) {
      for (const std::string& fqn : group) {
        laws.expect(names.contains(fqn), concat("a tied name is visited: ", printable(fqn)));
      }
    }
  });
  return laws.take();
}

}  // namespace fsdpinit::testing
