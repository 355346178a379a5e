// expect: fsdpinit: `optimizer`: Optimizer::rebind(group, fqn, slot) must be noexcept: it is called at the commit
// expect: my_optimizer
#include <fsdpinit/fsdpinit.hpp>

#include <cstddef>
#include <string_view>

struct my_optimizer : fsdpinit::no_optimizer {
#ifdef FSDPINIT_CONTROL
  void rebind(std::size_t, std::string_view, fsdpinit::parameter&) noexcept {}
#else
  void rebind(std::size_t, std::string_view, fsdpinit::parameter&) {}
#endif
};

void call(fsdpinit::dynamic_module& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links, {}, {.optimizer = {module, my_optimizer{}}});
}
