// expect: fsdpinit: `source` is module_state, which is on the source rank only: no rank can read its own part of it; use transport::scatter or transport::broadcast
#include <fsdpinit/fsdpinit.hpp>

#ifdef FSDPINIT_CONTROL
constexpr fsdpinit::transport chosen = fsdpinit::transport::scatter;
#else
constexpr fsdpinit::transport chosen = fsdpinit::transport::own_read;
#endif

void call(fsdpinit::dynamic_module& module, fsdpinit::self_communicator& links) {
  fsdpinit::initialize<fsdpinit::native_sharding<chosen>>(module, fsdpinit::module_state{}, links);
}
