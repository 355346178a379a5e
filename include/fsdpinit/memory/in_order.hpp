#pragma once

#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/core/attempt.hpp>

#include <utility>

namespace fsdpinit::detail {

/// `copies(order)` starts copies on a queue of their own. They are done when this returns, also where it throws: what they use may be
/// given back next. \throws what it throws, what the space throws, and std::bad_alloc.
template <class Copies>
void in_order(const memory_ref& memory, Copies&& copies) {
  memory_ref::queue order = memory.make_queue();
  try {
    std::forward<Copies>(copies)(order);
  } catch (...) {
    static_cast<void>(attempt([&] { memory.wait(order); }));
    throw;
  }
  memory.wait(order);
}

}  // namespace fsdpinit::detail
