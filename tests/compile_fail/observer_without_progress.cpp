// expect: fsdpinit: `observer`: T must have void progress(std::uint64_t done, std::uint64_t total)
#include <fsdpinit/fsdpinit.hpp>

#include <cstdint>

struct observer {
  void phase(const char*) {}
#ifdef FSDPINIT_CONTROL
  void progress(std::uint64_t, std::uint64_t) {}
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links, {}, {.observer = observer{}});
}
