// expect: fsdpinit: units need slots that model LendingSlot: give slot_traits<T> a function local(const T&)
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/units/sharded_units.hpp>

#include <string_view>

struct tensor {
  fsdpinit::local_shard part;
};

template <>
struct fsdpinit::slot_traits<tensor> {
  static slot_role role(const tensor&) { return slot_role::parameter; }
  static fsdpinit::dtype dtype(const tensor&) { return fsdpinit::dtype::f32; }
  static fsdpinit::shape shape(const tensor&) { return {4}; }
  static fsdpinit::placement placement(const tensor&) { return shard{0}; }
  static const std::byte* data(const tensor& slot) { return slot.part.data.get(); }
  static void drop(tensor& slot) noexcept { slot.part = {}; }
  static void adopt(tensor& slot, local_shard&& part) noexcept { slot.part = std::move(part); }
#ifdef FSDPINIT_CONTROL
  static local_shard local(const tensor& slot) { return slot.part; }
#endif
};

struct module_tree {
  tensor weight;
  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    visitor(std::string_view("weight"), weight);
  }
};

void call(module_tree& module, fsdpinit::threads_communicator& links) {
  const fsdpinit::sharded_units units(module, links);
}
