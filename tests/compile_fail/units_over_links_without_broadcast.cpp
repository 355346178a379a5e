// expect: fsdpinit: `ranks`: T must have void broadcast(mutable_bytes buffer, std::size_t root)
// expect: my_communicator
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <cstddef>

struct my_communicator {
  [[nodiscard]] std::size_t rank() const { return 0; }
  [[nodiscard]] std::size_t size() const { return 1; }
#ifdef FSDPINIT_CONTROL
  void broadcast(fsdpinit::mutable_bytes, std::size_t) {}
#endif
};

void call(fsdpinit::dynamic_module& module, my_communicator& links) {
  const fsdpinit::sharded_units units(module, links);
}
