// expect: fsdpinit: `observer`: T::poll() must take nothing and return void
#include <fsdpinit/fsdpinit.hpp>

struct observer : fsdpinit::null_observer {
#ifdef FSDPINIT_CONTROL
  void poll() {}
#else
  bool poll() { return true; }
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links, {}, {.observer = observer{}});
}
