// expect: fsdpinit: `rule` must be callable on a name, const: std::string(std::string_view)
#include <fsdpinit/sources/renamed.hpp>

#include <string_view>

void call() {
#ifdef FSDPINIT_CONTROL
  static_cast<void>(fsdpinit::renamed([](std::string_view name) { return name.substr(1); }));
#else
  static_cast<void>(fsdpinit::renamed([](std::string_view name) { return name.size(); }));
#endif
}
