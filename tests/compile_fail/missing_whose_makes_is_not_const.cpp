// expect: fsdpinit: `missing`: T::makes(info) must be const and return bool
// expect: my_zeros
#include <fsdpinit/fsdpinit.hpp>

struct my_zeros : fsdpinit::constant_values {
#ifndef FSDPINIT_CONTROL
  bool makes(const fsdpinit::missing_tensor_info&) { return true; }
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links, {}, {.missing = my_zeros{}});
}
