// expect: fsdpinit: `memory` must be a MemorySpace: T must have queue, host_accessible, allocate
// expect: my_pool
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#ifdef FSDPINIT_CONTROL
struct my_pool : fsdpinit::host_memory {};
#else
struct my_pool {};
#endif

void call(fsdpinit::dynamic_module& module, fsdpinit::threads_communicator& links) {
  const fsdpinit::sharded_units units(module, links, {}, my_pool{});
}
