// expect: fsdpinit: `ranks` must outlive the units; give a communicator that has a name, not a temporary one
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/units/sharded_units.hpp>

void call(fsdpinit::dynamic_module& module, const fsdpinit::threads_world& world) {
#ifdef FSDPINIT_CONTROL
  fsdpinit::threads_communicator links = world.rank(0);
  const fsdpinit::sharded_units units(module, links);
#else
  const fsdpinit::sharded_units units(module, world.rank(0));
#endif
}
