// expect: fsdpinit: the optimizer's rebind(group, fqn, slot) must be noexcept
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/optimizer_binding.hpp>

#include <string_view>

struct optimizer : fsdpinit::no_optimizer {
#ifdef FSDPINIT_CONTROL
  void rebind(std::size_t, std::string_view, fsdpinit::parameter&) noexcept {}
#else
  void rebind(std::size_t, std::string_view, fsdpinit::parameter&) {}
#endif
};

void call(fsdpinit::dynamic_module& module, const fsdpinit::module_view& view, optimizer& given) {
  static_cast<void>(fsdpinit::bind_optimizer(module, view, fsdpinit::check_optimizer(view, given), given));
}
