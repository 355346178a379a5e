// expect: fsdpinit: `source`: T::read(tensor, offset, destination) must return void: it reads all of it or throws
// expect: checkpoint
#include <fsdpinit/fsdpinit.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

struct checkpoint {
  [[nodiscard]] std::span<const fsdpinit::tensor_descriptor> tensors() const { return {}; }
#ifdef FSDPINIT_CONTROL
  void read(std::size_t, std::uint64_t, fsdpinit::mutable_bytes) {}
#else
  std::size_t read(std::size_t, std::uint64_t, fsdpinit::mutable_bytes) { return 0; }
#endif
};

void call(fsdpinit::dynamic_module& module, checkpoint& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links);
}
