// expect: fsdpinit: `ranks`: T::broadcast(buffer, root) must return void: it throws where it fails
// expect: my_communicator
#include <fsdpinit/fsdpinit.hpp>

#include <cstddef>

struct my_communicator {
  [[nodiscard]] std::size_t rank() const { return 0; }
  [[nodiscard]] std::size_t size() const { return 1; }
#ifdef FSDPINIT_CONTROL
  void broadcast(fsdpinit::mutable_bytes, std::size_t) {}
#else
  int broadcast(fsdpinit::mutable_bytes, std::size_t) { return 0; }
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, my_communicator& links) {
  fsdpinit::load_pretrained(module, source, links);
}
