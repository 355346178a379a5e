#pragma once

#include <cstddef>

namespace fsdpinit {

/// The ranks a model is sharded over: 1-D, rank r holds the r-th chunk.
struct mesh {
  std::size_t shards = 1;
  friend bool operator==(const mesh&, const mesh&) = default;
};

}  // namespace fsdpinit
