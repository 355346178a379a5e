// expect: fsdpinit: `stop` must be a StopRequest: T must have bool stop_requested() const
#include <fsdpinit/fsdpinit.hpp>

struct stop {
#ifdef FSDPINIT_CONTROL
  bool stop_requested() const { return false; }
#else
  bool is_requested() const { return false; }
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links, {}, {.stop = stop{}});
}
