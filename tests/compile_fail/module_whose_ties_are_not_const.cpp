// expect: fsdpinit: `module`: T::tie_groups() must be const, and return the names as
// expect: module_tree
#include <fsdpinit/fsdpinit.hpp>

#include <string>
#include <string_view>
#include <vector>

struct module_tree {
  fsdpinit::parameter weight;
  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    visitor(std::string_view("weight"), weight);
  }
#ifdef FSDPINIT_CONTROL
  [[nodiscard]] std::vector<std::vector<std::string>> tie_groups() const { return {}; }
#else
  [[nodiscard]] std::vector<std::vector<std::string>> tie_groups() { return {}; }
#endif
};

void call(module_tree& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::load_pretrained(module, source, links);
}
