// expect: fsdpinit: `ranks`: T is const, but its broadcast(buffer, root) is not; pass one that is not const
// expect: my_communicator
#include <fsdpinit/fsdpinit.hpp>

#include <cstddef>

struct my_communicator {
  [[nodiscard]] std::size_t rank() const { return 0; }
  [[nodiscard]] std::size_t size() const { return 1; }
  void broadcast(fsdpinit::mutable_bytes, std::size_t) {}
};

#ifdef FSDPINIT_CONTROL
using given = my_communicator;
#else
using given = const my_communicator;
#endif

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, given& links) {
  fsdpinit::initialize(module, source, links);
}
