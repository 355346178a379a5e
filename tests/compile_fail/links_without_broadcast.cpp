// expect: fsdpinit: `ranks`: T must have void broadcast(mutable_bytes buffer, std::size_t root)
#include <fsdpinit/fsdpinit.hpp>

#include <cstddef>

struct communicator {
  [[nodiscard]] std::size_t rank() const { return 0; }
  [[nodiscard]] std::size_t size() const { return 1; }
#ifdef FSDPINIT_CONTROL
  void broadcast(fsdpinit::mutable_bytes, std::size_t) {}
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, communicator& links) {
  fsdpinit::initialize(module, source, links);
}
