// expect: fsdpinit: `source`: T must have tensors() const, which returns the tensor_descriptors
// expect: my_checkpoint
#include <fsdpinit/fsdpinit.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

struct my_checkpoint {
#ifdef FSDPINIT_CONTROL
  [[nodiscard]] std::span<const fsdpinit::tensor_descriptor> tensors() const { return {}; }
#else
  [[nodiscard]] std::span<const fsdpinit::tensor_descriptor> tensors() { return {}; }
#endif
  void read(std::size_t, std::uint64_t, fsdpinit::mutable_bytes) {}
};

void call(fsdpinit::dynamic_module& module, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(
      module, [] { return my_checkpoint(); }, links);
}
