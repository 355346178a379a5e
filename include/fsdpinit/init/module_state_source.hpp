#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/modules/module_view.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// The parameters and persistent buffers of a module as a state dict, in the order in which it visits them; tied names are
/// one. A ReleasingSource.
class module_state_source {
 public:
  /// \throws error{missing_tensor} for a slot on meta, error{invalid_argument} for one that holds a part only, where that can
  /// be known. `view` must outlive it.
  module_state_source(const module_view& view, memory_ref memory, bool releases)
      : view_(view), memory_(std::move(memory)), releases_(releases), queue_(memory_.make_queue()) {
    for (std::size_t t = 0; t < view.tensors.size(); ++t) {
      const slot_record& slot = view.first_slot(view.tensors[t]);
      if (slot.role == slot_role::non_persistent_buffer || slot.role == slot_role::undeclared_buffer) {
        continue;  // from a buffer
      }
      require_whole(slot);
      descriptors_.push_back({.name = slot.fqn, .dtype = slot.dtype, .shape = slot.shape});
      stored_.push_back(t);
    }
  }

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept { return descriptors_; }

  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    if (!destination.empty()) {
      const std::byte* const values = view_.first_slot(view_.tensors[stored_[tensor]]).handle.data();
      memory_.copy_out(destination.data(), values + offset, destination.size(), queue_);
      memory_.wait(queue_);
    }
  }

  void release(std::size_t tensor) noexcept {
    if (releases_) {
      drop(stored_[tensor]);
      consumed_ = true;
    }
  }
  /// Is anything gone that a second attempt would need?
  [[nodiscard]] bool consumed() const noexcept { return consumed_; }
  void drop_all() noexcept {
    for (const std::size_t t : stored_) {
      drop(t);
    }
  }

 private:
  static void require_whole(const slot_record& slot) {
    const std::uint64_t whole = byte_size(slot.fqn, slot.dtype, slot.shape);
    if (whole != 0 && slot.handle.data() == nullptr) {
      throw error(
          errc::missing_tensor, slot.fqn,
          "the module has no values of it on the source rank; load it there first, or give a checkpoint as the source");
    }
    const std::uint64_t held = slot.handle.stored_bytes();
    if (held != unknown_bytes && held != whole) {
      throw error(errc::invalid_argument, slot.fqn,
                  concat("the module holds ", held, " bytes of ", to_string(slot.shape), " ", name(slot.dtype),
                         ", which takes ", whole, "; a module that is sharded already cannot be the source"));
    }
  }
  void drop(std::size_t t) noexcept {
    for (const std::size_t slot : view_.slots_of(view_.tensors[t])) {
      view_.slots[slot].handle.drop();
    }
  }

  const module_view& view_;
  memory_ref memory_;
  bool releases_;
  bool consumed_ = false;
  memory_ref::queue queue_;
  std::vector<tensor_descriptor> descriptors_;
  std::vector<std::size_t> stored_;  // per descriptor: index into view.tensors
};

/// The same failure, where a second attempt needs the state again.
[[nodiscard]] inline error consumed_by(const error& cause) noexcept {
  const error_facts facts{.rank = cause.rank(), .native_code = cause.native_code()};
  try {
    return {errc::source_consumed, cause.subject(),
            concat(cause.text(),
                   "; a part of the module's own state, the source, was released before: load it again, or set "
                   "release_source = false"),
            facts};
  } catch (const std::exception&) {  // it may be the heap that failed
    return error::without_text(errc::source_consumed, facts);
  }
}

/// After a failure that all ranks have agreed on: every rank of an initialisation from a module's own state comes here, with
/// `state` nullptr where there is none. If a part is gone that a second attempt would need the rest goes too; else all of it stays.
/// \throws error{source_consumed}, on every rank, if it went. Not after a lost peer, with whom nothing can be agreed.
inline void give_up_state(control_ref control, module_state_source* state, bool releases, const error& cause,
                          double deadline_seconds) {
  if (!releases) {
    return;
  }
  const bool consumed = state != nullptr && state->consumed();
  if (consumed) {
    state->drop_all();
  }
  if (cause.code() == errc::peer_lost) {
    return;
  }
  if (all_reduce_max(control, consumed ? 1 : 0, deadline::after(deadline_seconds)) != 0) {
    if (state != nullptr) {
      state->drop_all();
    }
    throw consumed_by(cause);
  }
}

}  // namespace fsdpinit::detail
