// expect: fsdpinit: `missing`: what T returns for a tensor must be callable with std::uint64_t index, and return that element
// expect: my_zeros
#include <fsdpinit/fsdpinit.hpp>

#include <cstdint>

struct my_zeros {
#ifdef FSDPINIT_CONTROL
  auto operator()(const fsdpinit::missing_tensor_info&) const {
    return [](std::uint64_t) { return 0.0; };
  }
#else
  double operator()(const fsdpinit::missing_tensor_info&) const { return 0; }
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links, {}, {.missing = my_zeros{}});
}
