// expect: fsdpinit: `memory`: T must have void copy_out(std::byte* to, const std::byte* from, std::uint64_t bytes, queue&)
#include <fsdpinit/fsdpinit.hpp>

struct memory_space : fsdpinit::host_memory {
#ifndef FSDPINIT_CONTROL
 private:
  using fsdpinit::host_memory::copy_out;
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links, {}, {.memory = memory_space{}});
}
