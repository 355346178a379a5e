#pragma once

#include "support/reference_model.hpp"
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/sources/in_memory.hpp>

namespace fsdpinit::testing_support {

/// A tensor whose chunks are worth a read each on two ranks, and one whose are not.
inline reference_model large_and_small() {
  return reference_model({{.fqn = "large", .type = dtype::u8, .extents = {2 * mib}},
                          {.fqn = "small", .type = dtype::u8, .extents = {4000}}});
}

/// A SourceOpener of a checkpoint that is not on every rank's disk.
struct readable_checkpoint {
  const reference_model* model;
  bool works = true;
  errc why = errc::io;
  in_memory_source operator()() const {
    if (!works) {
      throw error(why, "model.safetensors", "no such file");
    }
    return model->source();
  }
};

}  // namespace fsdpinit::testing_support
