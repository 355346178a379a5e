// expect: fsdpinit: `observer`: T::waiting(what, seconds) must be noexcept and return void
#include <fsdpinit/fsdpinit.hpp>

struct observer : fsdpinit::null_observer {
#ifdef FSDPINIT_CONTROL
  void waiting(const char*, double) noexcept {}
#else
  void waiting(const char*, double) {}
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links, {}, {.observer = observer{}});
}
