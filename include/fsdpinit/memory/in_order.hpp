#pragma once

#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/control/attempt.hpp>

#include <utility>

namespace fsdpinit::detail {

/// `copies(order)` starts copies on a queue of their own. They are done when this returns, also where it throws: what they use may be
/// given back next. \throws what it throws, and what the space throws.
template <MemorySpace Space, class Copies>
void in_order(Space& memory, Copies&& copies) {
  typename Space::queue order{};
  try {
    std::forward<Copies>(copies)(order);
  } catch (...) {
    static_cast<void>(attempt([&] { memory.wait(order); }));
    throw;
  }
  memory.wait(order);
}

}  // namespace fsdpinit::detail
