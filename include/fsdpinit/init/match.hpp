#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/init/module_view.hpp>
#include <fsdpinit/plan/slab_layout.hpp>

#include <algorithm>
#include <cstddef>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit {

/// Where the bytes of one stored tensor come from.
struct load_item {
  std::size_t tensor = 0;             ///< index into module_view::tensors
  bool captured = false;              ///< a non-persistent buffer: from the source rank's module
  bool missing = false;               ///< not in the source: to be initialised
  std::size_t source = 0;             ///< index into the source's tensors, if not captured
  std::vector<std::size_t> copies{};  ///< further names of it in the source, to be compared
};

/// Names that did not fit and were let pass; each list in the order of the module or the source.
struct unmatched_names {
  std::vector<std::string> missing{};     ///< the module wants them, the source does not have them: they stay on meta
  std::vector<std::string> unexpected{};  ///< the source has them, the module does not want them
};

namespace detail {

/// All that does not fit between module and source, as one error that lists it.
class mismatch_list {
 public:
  void add(errc code, std::string_view fqn, std::string_view text) {
    if (count_ == 0) {
      code_ = code;
      subject_ = fqn;
      first_ = text;
    }
    if (count_ < shown) {
      lines_ += concat("\n  ", printable(fqn, 100), ": ", text.substr(0, text.find(';')));
    }
    ++count_;
  }
  void throw_if_any() const {
    if (count_ == 0) {
      return;
    }
    std::string text = first_;
    if (count_ > 1) {
      text += concat(" (", count_, " such problems)", lines_);
      if (count_ > shown) {
        text += concat("\n  and ", count_ - shown, " more");
      }
    }
    throw error(code_, subject_, text, {.rank = every_rank});
  }

 private:
  static constexpr std::size_t shown = 20;
  errc code_ = errc::missing_tensor;
  std::string subject_;
  std::string first_;
  std::string lines_;
  std::size_t count_ = 0;
};

/// Per tensor of the source the slot that wants it; nullptr where none does. O(1) for each that follows the one before it in the
/// order of the module or in that of names, as those of a checkpoint mostly do, else O(log n).
[[nodiscard]] inline std::vector<const slot_record*> wanting_slots(const module_view& view,
                                                                   std::span<const tensor_descriptor> source) {
  std::vector<const slot_record*> wanting;
  wanting.reserve(source.size());
  std::size_t in_module = 0;  // indices behind those of the slot found last
  std::size_t in_order = 0;
  for (const tensor_descriptor& tensor : source) {
    const auto is_called_so = [&](std::size_t slot) { return view.slots[slot].fqn == tensor.name; };
    const slot_record* slot = nullptr;
    if (in_module < view.slots.size() && is_called_so(in_module)) {
      slot = &view.slots[in_module];
    } else {
      if (in_order == view.slots.size() || !is_called_so(view.by_name[in_order])) {
        in_order = view.place_of(tensor.name);
      }
      if (in_order < view.slots.size() && is_called_so(view.by_name[in_order])) {
        slot = &view.slots[view.by_name[in_order++]];
      }
    }
    in_module = slot != nullptr ? view.index_of(*slot) + 1 : in_module;
    wanting.push_back(slot != nullptr && slot->role != slot_role::non_persistent_buffer ? slot : nullptr);
  }
  return wanting;
}

}  // namespace detail

/// Buffers that nobody has declared persistent or not are what the source makes of them. Pure, and equal on every rank. O(n log n).
inline void settle_buffers(module_view& view, std::span<const tensor_descriptor> source) {
  const auto undeclared = [](const slot_record& slot) { return slot.role == slot_role::undeclared_buffer; };
  if (std::none_of(view.slots.begin(), view.slots.end(), undeclared)) {
    return;
  }
  std::set<std::string_view> stored;
  for (const tensor_descriptor& tensor : source) {
    stored.insert(tensor.name);
  }
  for (slot_record& slot : view.slots) {
    if (undeclared(slot)) {
      slot.role = stored.contains(slot.fqn) ? slot_role::persistent_buffer : slot_role::non_persistent_buffer;
    }
  }
}

/// Finds for every stored tensor of the module its tensor in the source. A tie group may be stored under any of its
/// names.
///
/// Pure, and equal on every rank: items in source order, so that reading is sequential, then the captured buffers.
/// \pre buffers are settled.
/// \param tolerated  If given, missing and unexpected names are no errors, and are put there.
/// \throws error{missing_tensor, unexpected_tensor, shape_mismatch, dtype_mismatch} listing up to 20 problems and their
/// number; its subject is the first one's FQN.
[[nodiscard]] inline std::vector<load_item> match(const module_view& view, const state_dict_contents& contents,
                                                  unmatched_names* tolerated = nullptr) {
  const std::span<const tensor_descriptor> source = contents.tensors;
  constexpr auto none = static_cast<std::size_t>(-1);
  const std::vector<const slot_record*> slot_of = detail::wanting_slots(view, source);
  const std::set<std::string_view> ignored(view.ignored.begin(), view.ignored.end());
  std::vector<std::size_t> item_of(view.tensors.size(), none);
  std::vector<load_item> items;
  items.reserve(view.tensors.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    const slot_record* const slot = slot_of[i];
    if (slot == nullptr) {
      continue;
    }
    std::size_t& item = item_of[slot->tensor];
    if (item == none) {
      item = items.size();
      items.push_back({.tensor = slot->tensor, .source = i});
    } else {
      items[item].copies.push_back(i);
    }
  }

  detail::mismatch_list problems;
  for (std::size_t t = 0; t < view.tensors.size(); ++t) {
    const slot_record& slot = view.first_slot(view.tensors[t]);
    if (slot.role == slot_role::non_persistent_buffer) {
      items.push_back({.tensor = t, .captured = true});
    } else if (item_of[t] == none && tolerated != nullptr) {
      tolerated->missing.push_back(slot.fqn);
    } else if (item_of[t] == none) {
      problems.add(errc::missing_tensor, slot.fqn,
                   "missing: the module wants it, the checkpoint does not have it; check that this is the model's "
                   "checkpoint, and its prefix");
    }
  }
  const auto stored_as = [&](std::size_t i) {
    const std::string& stored = contents.stored_name(i);
    return stored == source[i].name ? std::string() : concat(" (stored as ", printable(stored), ")");
  };
  for (std::size_t i = 0; i < source.size(); ++i) {
    const tensor_descriptor& tensor = source[i];
    if (slot_of[i] != nullptr || ignored.contains(tensor.name)) {
      continue;
    }
    if (tolerated != nullptr) {
      tolerated->unexpected.push_back(tensor.name);
    } else {
      problems.add(errc::unexpected_tensor, tensor.name,
                   concat("unexpected: the checkpoint has it", stored_as(i),
                          ", the module does not want it; check that this is the model's checkpoint, and its prefix"));
    }
  }
  for (std::size_t i = 0; i < source.size(); ++i) {
    const tensor_descriptor& tensor = source[i];
    const slot_record* const slot = slot_of[i];
    if (slot == nullptr) {
      continue;
    }
    if (tensor.shape != slot->shape) {
      problems.add(errc::shape_mismatch, slot->fqn,
                   concat("the checkpoint has shape ", to_string(tensor.shape), stored_as(i), ", the module ",
                          to_string(slot->shape), "; check the model's configuration"));
    } else if (tensor.dtype != slot->dtype) {
      problems.add(errc::dtype_mismatch, slot->fqn,
                   concat("the checkpoint has ", name(tensor.dtype), stored_as(i), ", the module ", name(slot->dtype),
                          "; nothing is cast unasked: read the checkpoint through cast(), give the module the "
                          "checkpoint's dtype, or convert the checkpoint"));
    }
  }
  problems.throw_if_any();
  return items;
}

/// One more item for each stored tensor that has none: what is missing, where that is to be initialised.
inline void add_missing(const module_view& view, std::vector<load_item>& items) {
  std::vector<bool> found(view.tensors.size(), false);
  for (const load_item& item : items) {
    found[item.tensor] = true;
  }
  for (std::size_t t = 0; t < found.size(); ++t) {
    if (!found[t]) {
      items.push_back({.tensor = t, .missing = true});
    }
  }
}

/// The dtype in which the bytes of an item of dtype `wanted` travel: the stored one where that is narrower, under all its names.
[[nodiscard]] inline dtype travelling_dtype(const load_item& item, dtype wanted, const state_dict_contents& contents) {
  if (item.captured || item.missing || bits(contents.stored_dtype(item.source)) >= bits(wanted)) {
    return wanted;
  }
  const dtype narrow = contents.stored_dtype(item.source);
  for (const std::size_t copy : item.copies) {
    if (contents.stored_dtype(copy) != narrow) {
      return wanted;
    }
  }
  return narrow;
}

/// What the planner is told of them, in the same order. The names are views into `view`.
[[nodiscard]] inline std::vector<tensor_request> requests_of(const module_view& view,
                                                             const std::vector<load_item>& items,
                                                             const state_dict_contents& contents) {
  std::vector<tensor_request> requests;
  requests.reserve(items.size());
  for (const load_item& item : items) {
    const stored_tensor& tensor = view.tensors[item.tensor];
    const slot_record& slot = view.first_slot(tensor);
    requests.push_back({.fqn = slot.fqn,
                        .dtype = slot.dtype,
                        .travels_as = travelling_dtype(item, slot.dtype, contents),
                        .shape = slot.shape,
                        .placement = slot.placement,
                        .unit = tensor.unit,
                        .captured = item.captured,
                        .generated = item.missing,
                        .extra_copies = item.copies.size()});
  }
  return requests;
}

}  // namespace fsdpinit
