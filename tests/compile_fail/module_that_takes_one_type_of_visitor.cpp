// expect: fsdpinit: `module`: T::visit_slots must take a visitor of any type: template <class Visitor> void visit_slots
// expect: module_tree
#include <fsdpinit/fsdpinit.hpp>

#include <string_view>

struct module_tree {
  fsdpinit::parameter weight;
#ifdef FSDPINIT_CONTROL
  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    visitor(std::string_view("weight"), weight);
  }
#else
  void visit_slots(void (&visitor)(std::string_view, fsdpinit::parameter&)) { visitor("weight", weight); }
#endif
};

void call(module_tree& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links);
}
