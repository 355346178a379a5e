// expect: fsdpinit: `memory`: T must be host_accessible: whole weights are loaded into host memory
#include <fsdpinit/fsdpinit.hpp>

struct memory_space : fsdpinit::host_memory {
#ifndef FSDPINIT_CONTROL
  static constexpr bool host_accessible = false;
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::load_pretrained(module, source, links, {}, {}, {.memory = memory_space{}});
}
