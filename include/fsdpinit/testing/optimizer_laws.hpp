#pragma once

#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/optimizer_binding.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/testing/law_list.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit::testing {

namespace detail {

/// Gives every stored tensor of a module host memory of its own, whole, as an initialisation on one rank would.
class lent_storage {
 public:
  explicit lent_storage(const module_view& view) {
    for (const stored_tensor& tensor : view.tensors) {
      const slot_record& first = view.first_slot(tensor);
      const std::uint64_t bytes = byte_size(first.fqn, first.dtype, first.shape);
      owners_.emplace_back(new std::byte[bytes + 1]());
      for (const std::size_t slot : view.slots_of(tensor)) {
        view.slots[slot].handle.adopt(
            {.shape = first.shape, .offset = 0, .bytes = bytes, .data = {owners_.back(), owners_.back().get()}});
      }
    }
  }
  [[nodiscard]] const std::byte* of(std::size_t tensor) const noexcept { return owners_[tensor].get(); }
  /// The tensors that somebody still holds on to.
  [[nodiscard]] std::size_t held() const noexcept {
    std::size_t count = 0;
    for (const auto& owner : owners_) {
      count += owner.use_count() > 1 ? 1U : 0U;
    }
    return count;
  }

 private:
  std::vector<std::shared_ptr<std::byte[]>> owners_;
};

}  // namespace detail

/// The laws of `ShardableOptimizer`. The module's slots get storage of host memory and are on meta afterwards; the optimizer,
/// which has no state and names parameters of the module, refers to nothing afterwards. For small modules.
/// \param address_of  `address_of(fqn)`: the first byte of what the optimizer would update under this name; nullptr where it
///                    refers to no such parameter.
template <ShardableModule M, ShardableOptimizer O, class AddressOf>
[[nodiscard]] violations check_optimizer_laws(M& module, O& optimizer, AddressOf&& address_of) {
  detail::law_list laws;
  laws.run("optimizer", [&] {
    using groups = std::vector<std::vector<std::string>>;
    const groups named = std::as_const(optimizer).parameter_groups();
    laws.expect(named == groups(std::as_const(optimizer).parameter_groups()), "parameter_groups() is the same again");
    const module_view view = view_of(module);
    const std::vector<optimizer_entry> entries = check_optimizer(view, optimizer);
    const optimizer_binding binding = bind_optimizer({module, optimizer}, view, entries);
    const auto drop_slots = [&] {
      for (const slot_record& slot : view.slots) {
        slot.handle.drop();
      }
    };
    const auto expect_names = [&](std::string_view when) {
      laws.expect(named == groups(std::as_const(optimizer).parameter_groups()), concat("the names survive ", when));
      laws.expect(!std::as_const(optimizer).has_state(), concat(when, " makes no state"));
    };
    for (const std::string_view round : {"first", "second"}) {
      optimizer.drop_references();
      expect_names("drop_references()");
      for (const optimizer_entry& entry : entries) {
        const std::string& fqn = view.slots[entry.slot].fqn;
        laws.expect(address_of(std::string_view(fqn)) == nullptr,
                    concat("drop_references() leaves no reference to ", printable(fqn)));
      }
      optimizer.drop_references();
      const detail::lent_storage storage(view);
      rebind(binding);
      expect_names("rebind()");
      for (const optimizer_entry& entry : entries) {
        const slot_record& slot = view.slots[entry.slot];
        laws.expect(address_of(std::string_view(slot.fqn)) == storage.of(slot.tensor),
                    concat("rebind() refers to the storage of its slot, the ", round, " time: ", printable(slot.fqn)));
      }
      optimizer.drop_references();
      drop_slots();
      laws.expect(storage.held() == 0, "drop_references() lets go of the storage");
    }
  });
  return laws.take();
}

}  // namespace fsdpinit::testing
