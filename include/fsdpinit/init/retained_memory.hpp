#pragma once

#include <fsdpinit/concepts/communicator.hpp>

#include <cstdlib>
#include <memory>
#include <utility>

namespace fsdpinit::detail {

/// Where a peer was lost in mid-operation the communicator may go on using what it was given: those buffers are moved away and
/// never given back. Does nothing otherwise.
template <Communicator Data, class... Buffers>
void retain_if_lost([[maybe_unused]] const Data& data, [[maybe_unused]] Buffers&... buffers) noexcept {
  if constexpr (PoisonableCommunicator<Data>) {
    if (data.poisoned()) {
      try {
        (static_cast<void>(std::make_unique<Buffers>(std::move(buffers)).release()), ...);
      } catch (...) {
        std::abort();  // no memory to keep memory with: better than to let it be written to by chance
      }
    }
  }
}

}  // namespace fsdpinit::detail
