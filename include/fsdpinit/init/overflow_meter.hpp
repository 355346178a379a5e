#pragma once

#include <fsdpinit/init/match.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace fsdpinit::detail {

/// Counts what the casts of a source make infinite while it lives, in the tensors that a module wants. Reads nothing.
class overflow_meter {
 public:
  /// `source` is empty on ranks that do not read; `items` stay where they are.
  overflow_meter(const std::optional<source_ref>& source, std::span<const load_item> items)
      : source_(source), items_(items) {
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
  [[nodiscard]] bool counts() const noexcept { return source_ && source_->counts_overflows(); }
  [[nodiscard]] std::uint64_t so_far(std::size_t item) const {
    return items_[item].captured || items_[item].missing ? 0 : source_->overflows(items_[item].source);
  }

  std::optional<source_ref> source_;
  std::span<const load_item> items_;
  std::vector<std::uint64_t> before_;  // per item; empty where nothing is counted
};

}  // namespace fsdpinit::detail
