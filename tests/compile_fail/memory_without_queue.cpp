// expect: fsdpinit: `memory`: T must have a type queue, default-initialisable, which orders copies
// expect: my_pool
#include <fsdpinit/fsdpinit.hpp>

struct my_pool : fsdpinit::host_memory {
#ifndef FSDPINIT_CONTROL
 private:
  using fsdpinit::host_memory::queue;
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::load_pretrained(module, source, links, {}, {}, {.memory = my_pool{}});
}
