// expect: fsdpinit: `memory`: T::deallocate(address, bytes) must be noexcept
// expect: my_pool
#include <fsdpinit/fsdpinit.hpp>

#include <cstddef>
#include <cstdint>

struct my_pool : fsdpinit::host_memory {
#ifndef FSDPINIT_CONTROL
  void deallocate(std::byte* address, std::uint64_t bytes) { fsdpinit::host_memory::deallocate(address, bytes); }
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links, {}, {.memory = my_pool{}});
}
