// expect: fsdpinit: `source`: T is a call, and so it must return a StateDictSource
#include <fsdpinit/fsdpinit.hpp>

struct opener {
#ifdef FSDPINIT_CONTROL
  fsdpinit::in_memory_source operator()() { return {}; }
#else
  int operator()() { return 0; }
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, opener{}, links);
}
