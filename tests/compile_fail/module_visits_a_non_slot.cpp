// expect: fsdpinit: the module visits a type T that is no slot; specialise fsdpinit::slot_traits<T>
#include <fsdpinit/fsdpinit.hpp>

#include <string_view>

struct module_tree {
#ifdef FSDPINIT_CONTROL
  fsdpinit::parameter weight;
#else
  float weight;
#endif
  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    visitor(std::string_view("weight"), weight);
  }
};

void call(module_tree& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links);
}
