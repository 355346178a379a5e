#pragma once

#include <fsdpinit/init/payload_link.hpp>

#include <cstdlib>
#include <memory>
#include <utility>

namespace fsdpinit::detail {

/// Where a peer was lost in mid-operation the communicator may go on using what it was given: those buffers are moved away and
/// never given back. Does nothing otherwise.
template <class... Buffers>
void retain_if_lost(const payload_link& data, Buffers&... buffers) noexcept {
  if (data.poisoned()) {
    try {
      (static_cast<void>(std::make_unique<Buffers>(std::move(buffers)).release()), ...);
    } catch (...) {
      std::abort();  // no memory to keep memory with: better than to let it be written to by chance
    }
  }
}

}  // namespace fsdpinit::detail
