// expect: fsdpinit: slot_traits<T>::drop must be noexcept
// expect: tensor
#include <fsdpinit/fsdpinit.hpp>

#include <cstddef>
#include <string_view>

struct tensor {};

template <>
struct fsdpinit::slot_traits<tensor> {
  static slot_role role(const tensor&) { return slot_role::parameter; }
  static fsdpinit::dtype dtype(const tensor&) { return fsdpinit::dtype::f32; }
  static fsdpinit::shape shape(const tensor&) { return {1}; }
  static fsdpinit::placement placement(const tensor&) { return shard{0}; }
  static const std::byte* data(const tensor&) { return nullptr; }
#ifdef FSDPINIT_CONTROL
  static void drop(tensor&) noexcept {}
#else
  static void drop(tensor&) {}
#endif
  static void adopt(tensor&, local_shard&&) noexcept {}
};

struct module_tree {
  tensor weight;
  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    visitor(std::string_view("weight"), weight);
  }
};

void call(module_tree& module, fsdpinit::in_memory_source& source, fsdpinit::self_communicator& links) {
  fsdpinit::initialize(module, source, links);
}
