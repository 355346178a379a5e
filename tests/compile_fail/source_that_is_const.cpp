// expect: fsdpinit: `source`: T is const, but its read(tensor, offset, destination) is not; pass one that is not const
// expect: my_checkpoint
#include <fsdpinit/fsdpinit.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

struct my_checkpoint {
  [[nodiscard]] std::span<const fsdpinit::tensor_descriptor> tensors() const { return {}; }
  void read(std::size_t, std::uint64_t, fsdpinit::mutable_bytes) {}
};

#ifdef FSDPINIT_CONTROL
using given = my_checkpoint;
#else
using given = const my_checkpoint;
#endif

void call(fsdpinit::dynamic_module& module, given& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links);
}
