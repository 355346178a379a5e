// expect: fsdpinit: `memory` must model MemorySpace: queue, host_accessible, allocate, deallocate, copy_in, copy_out
#include <fsdpinit/fsdpinit.hpp>

struct memory_space : fsdpinit::host_memory {
#ifndef FSDPINIT_CONTROL
 private:
  using fsdpinit::host_memory::copy_out;
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links, {}, memory_space{});
}
