#pragma once

#include <fsdpinit/core/compiler.hpp>

namespace fsdpinit {

/// Passed in the place of a source: the values that the module itself holds on the source rank (loaded, and perhaps edited,
/// before), whole tensors in the module's memory space. What other ranks hold is dropped.
///
/// Each tensor is released as soon as its last byte has left, so that the source rank's memory falls while its shards fill
/// (`options::release_source`).
struct module_state {};

}  // namespace fsdpinit
