#pragma once

#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/testing/communicator_laws.hpp>
#include <fsdpinit/testing/law_list.hpp>
#include <fsdpinit/testing/optimizer_laws.hpp>
#include <fsdpinit/testing/source_laws.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// \file
/// What the concepts promise beyond their syntax, as checks that the author of an adapter runs too, under any test
/// framework. Each returns the laws that were violated, in words; empty: none.

namespace fsdpinit::testing {

namespace detail {

/// What `LocallyCopyingMemory` promises beyond a MemorySpace.
template <LocallyCopyingMemory S>
void check_copies_within(law_list& laws, S& memory, typename S::queue& order) {
  constexpr std::uint64_t count = 50;
  constexpr std::uint64_t from_stride = 11;
  constexpr std::uint64_t to_stride = 13;
  constexpr std::uint64_t from_bytes = count * from_stride;
  constexpr std::uint64_t to_bytes = count * to_stride + 2;
  const std::vector<std::byte> wide = patterned(from_bytes, 3);
  std::byte* const from = memory.allocate(from_bytes);
  std::byte* const to = memory.allocate(to_bytes);
  memory.copy_in(from, wide.data(), from_bytes, from_bytes, 1, order);
  std::vector<std::byte> wanted;
  const auto expect_wanted = [&](std::string_view what) {
    std::vector<std::byte> got(to_bytes);
    memory.copy_out(got.data(), to, to_bytes, order);
    memory.wait(order);
    laws.expect(got == wanted, what);
  };
  for (const std::uint64_t run : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{4}, from_stride}) {
    wanted.assign(to_bytes, std::byte{0xee});
    memory.copy_in(to, wanted.data(), to_bytes, to_bytes, 1, order);
    memory.copy_within(to + 1, to_stride, from, from_stride, run, count, order);
    for (std::uint64_t i = 0; i < count * run; ++i) {
      wanted[1 + i / run * to_stride + i % run] = wide[i / run * from_stride + i % run];
    }
    expect_wanted(concat("copy_within places runs of ", run, " of 11 bytes 13 bytes apart, in queue order"));
  }
  memory.copy_within(to + 1, from_bytes, from, from_bytes, from_bytes, 1, order);
  std::copy(wide.begin(), wide.end(), wanted.begin() + 1);
  expect_wanted("copy_within copies a single run");
  memory.zero(to + 2, to_bytes - 4, order);
  std::fill(wanted.begin() + 2, wanted.end() - 2, std::byte{0});
  memory.zero(to, 0, order);
  expect_wanted("zero clears what it is told to, and nothing else");
  memory.deallocate(to, to_bytes);
  memory.deallocate(from, from_bytes);
}

}  // namespace detail

/// The laws of `MemorySpace`, and of `LocallyCopyingMemory` where it is one. \pre nobody else allocates from it meanwhile.
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
    if constexpr (LocallyCopyingMemory<S>) {
      detail::check_copies_within(laws, memory, order);
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
    if constexpr (LendingSlot<T>) {
      const local_shard lent = traits::local(std::as_const(slot));
      laws.expect(lent.data == second && lent.shape == extents && lent.bytes == 1, "local() is what was adopted");
      traits::drop(slot);
      laws.expect(lent.data.get() == second.get() && second.use_count() == 2, "what local() lent outlives drop()");
      laws.expect(traits::local(std::as_const(slot)).data == nullptr, "local() is empty on meta");
    }
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
    if constexpr (NamesUnits<M>) {
      for (const std::string_view fqn : names) {
        const std::string_view path = fqn.substr(0, fqn.rfind('.'));
        laws.expect(is_unit(std::as_const(module), path) == is_unit(std::as_const(module), path),
                    concat("is_unit() answers a second question as the first: ", printable(path)));
      }
    }
  });
  return laws.take();
}

}  // namespace fsdpinit::testing
