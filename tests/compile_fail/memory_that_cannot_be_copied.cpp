// expect: fsdpinit: `memory`: T must be copyable: a handle, whose copies share an account
// expect: my_pool
#include <fsdpinit/fsdpinit.hpp>

struct my_pool : fsdpinit::host_memory {
#ifndef FSDPINIT_CONTROL
  my_pool() = default;
  my_pool(my_pool&&) = default;
  my_pool& operator=(my_pool&&) = default;
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links, {}, {.memory = my_pool{}});
}
