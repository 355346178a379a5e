// expect: fsdpinit: `Policy`: it is a transport; use native_sharding<transport::...>
#include <fsdpinit/fsdpinit.hpp>

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
#ifdef FSDPINIT_CONTROL
  fsdpinit::initialize<fsdpinit::native_sharding<fsdpinit::transport::broadcast>>(module, source, links);
#else
  fsdpinit::initialize<fsdpinit::transport::broadcast>(module, source, links);
#endif
}
