#pragma once

#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/plan/program_step.hpp>

#include <array>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// The allocations of one initialisation, all made before the first byte moves: a block for each region of its program.
class workspace {
 public:
  workspace(memory_ref space, memory_ref of_host) : memory(std::move(space)), host(std::move(of_host)) {}

  /// For as many regions as will be added. \throws std::bad_alloc
  void reserve(std::size_t regions) {
    slabs.reserve(regions);
    staging.reserve(regions);
  }
  /// Regions of one kind come in the order of their indices. \throws std::bad_alloc
  void add(const program_region& region, block<memory_ref> made) {
    places_[static_cast<std::size_t>(region.kind)].push_back(made.data());
    if (region.kind == region_kind::slab) {
      slabs.push_back(std::make_shared<block<memory_ref>>(std::move(made)));
    } else {
      staging.push_back(std::move(made));
    }
  }
  /// Everything but the slabs.
  void release_staging() noexcept { staging.clear(); }

  /// nullptr where the program has no such region, as it needs none: of it there are no bytes.
  [[nodiscard]] std::byte* at(const region_position& where) const noexcept {
    const std::vector<std::byte*>& places = places_[static_cast<std::size_t>(where.kind)];
    return where.index < places.size() ? places[where.index] + where.offset : nullptr;
  }

  memory_ref memory;
  memory_ref host;
  std::vector<std::shared_ptr<block<memory_ref>>> slabs{};
  std::vector<block<memory_ref>> staging{};

 private:
  std::array<std::vector<std::byte*>, region_kinds> places_{};  // by kind
};

}  // namespace fsdpinit::detail
