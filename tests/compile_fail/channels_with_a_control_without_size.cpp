// expect: fsdpinit: `ranks`: T must have std::size_t size() const, the number of ranks
// expect: my_control
#include <fsdpinit/fsdpinit.hpp>

#include <cstddef>

struct my_control {
  [[nodiscard]] std::size_t rank() const { return 0; }
#ifdef FSDPINIT_CONTROL
  [[nodiscard]] std::size_t size() const { return 1; }
#endif
  void broadcast(fsdpinit::mutable_bytes, std::size_t) {}
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& data,
          my_control& control) {
  fsdpinit::initialize(module, source, fsdpinit::channels{data, control});
}
