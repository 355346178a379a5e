// expect: fsdpinit: `Policy`: T is a transport; use native_sharding<T>
#include <fsdpinit/fsdpinit.hpp>

#ifdef FSDPINIT_CONTROL
using policy = fsdpinit::native_sharding<fsdpinit::transport::broadcast>;
#else
using policy = fsdpinit::transport::broadcast;
#endif

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize<policy>(module, source, links);
}
