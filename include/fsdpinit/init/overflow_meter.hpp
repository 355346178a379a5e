#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/init/match.hpp>
#include <fsdpinit/observe/report.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fsdpinit::detail {

/// Counts what the casts of a source make infinite while it lives, in the tensors that a module wants. Reads nothing.
template <class Source>
class overflow_meter {
 public:
  /// `source` may be nullptr on ranks that do not read; `items` stay where they are.
  overflow_meter(const Source* source, std::span<const load_item> items) : source_(source), items_(items) {
    if (counts()) {
      for (std::size_t i = 0; i < items.size(); ++i) {
        before_.push_back(so_far(i));
      }
    }
  }

  /// `fqn_of(i)` is what item i is called. Further stored copies of a tie are not counted.
  template <class NameOf>
  [[nodiscard]] overflow_count count(const NameOf& fqn_of) const {
    overflow_count all;
    for (std::size_t i = 0; i < before_.size(); ++i) {
      const std::uint64_t infinite = so_far(i) - before_[i];
      if (infinite != 0 && all.elements == 0) {
        all.first = fqn_of(i);
      }
      all.elements += infinite;
    }
    return all;
  }

 private:
  [[nodiscard]] bool counts() const noexcept { return OverflowCountingSource<Source> && source_ != nullptr; }
  [[nodiscard]] std::uint64_t so_far([[maybe_unused]] std::size_t item) const {
    if constexpr (OverflowCountingSource<Source>) {
      return items_[item].captured || items_[item].missing ? 0 : source_->overflows(items_[item].source);
    } else {
      return 0;
    }
  }

  const Source* source_;
  std::span<const load_item> items_;
  std::vector<std::uint64_t> before_;  // per item; empty where nothing is counted
};

}  // namespace fsdpinit::detail
