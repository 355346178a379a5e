// expect: fsdpinit: `optimizer`: T::drop_references() must be noexcept
// expect: my_optimizer
#include <fsdpinit/fsdpinit.hpp>

struct my_optimizer : fsdpinit::no_optimizer {
#ifndef FSDPINIT_CONTROL
  void drop_references() {}
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links, {}, {.optimizer = {module, my_optimizer{}}});
}
