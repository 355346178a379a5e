#pragma once

#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/init/mismatches.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/plan/slab_layout.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace fsdpinit {

/// Names that did not fit and were let pass; each list in the order of the module or the source.
struct unmatched_names {
  std::vector<std::string> missing{};     ///< the module wants them, the source does not have them: they stay on meta
  std::vector<std::string> unexpected{};  ///< the source has them, the module does not want them
};

namespace detail {

/// Per tensor of the source the slot of its name; nullptr where there is none. O(1) for each that follows the one before it in the
/// order of the module or in that of names, as those of a checkpoint mostly do, else O(log n).
[[nodiscard]] inline std::vector<const slot_record*> slots_named(const module_view& view,
                                                                 std::span<const tensor_descriptor> source) {
  std::vector<const slot_record*> named;
  named.reserve(source.size());
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
    named.push_back(slot);
  }
  return named;
}

/// The source has nothing at all of what the module wants, `missing`: that is another model's checkpoint, or a prefix is missing, and
/// no reason to leave everything as it is. \throws error{missing_tensor}
[[noreturn]] inline void fail_without_match(std::span<const std::string> missing, const state_dict_contents& contents) {
  const std::size_t wanted = missing.size();
  if (contents.tensors.empty()) {
    throw error(errc::missing_tensor, missing.front(),
                concat("missing, as are all ", wanted,
                       " tensors that the module wants: the checkpoint holds nothing; check its path"),
                {.rank = every_rank});
  }
  throw error(errc::missing_tensor, missing.front(),
              concat("missing, as are all ", wanted, " tensors that the module wants: the checkpoint has ",
                     contents.tensors.size(), contents.tensors.size() == 1 ? " other, " : " others, such as ",
                     printable(contents.tensors.front().name, 100),
                     "; check that this is the model's checkpoint, and its prefix: renamed() changes names"),
              {.rank = every_rank});
}

}  // namespace detail

/// Buffers whose values are those of the source rank's module, whatever was declared; each list in the order of the module.
struct settled_buffers {
  std::vector<std::string> kept{};    ///< persistent, but not in the source: the module keeps its own values
  std::vector<std::string> unread{};  ///< in the source, but not persistent: the module computes them
};

/// Settles for every buffer where its values come from. Those that nobody has declared persistent or not are what the source makes
/// of them. With `keep_missing` persistent ones that the source does not have are as those that are not persistent: the source rank's
/// values, on all ranks. Pure, and equal on every rank. O(n), and O(n log n) where the source has an order of its own.
inline settled_buffers settle_buffers(module_view& view, std::span<const tensor_descriptor> source,
                                      bool keep_missing = false) {
  settled_buffers settled;
  const auto is_settled = [&](const slot_record& slot) {
    return slot.role == slot_role::parameter || (slot.role == slot_role::persistent_buffer && !keep_missing);
  };
  if (std::all_of(view.slots.begin(), view.slots.end(), is_settled)) {
    return settled;
  }
  std::vector<bool> stored(view.slots.size());
  for (const slot_record* const slot : detail::slots_named(view, source)) {
    if (slot != nullptr) {
      stored[view.index_of(*slot)] = true;
    }
  }
  for (slot_record& slot : view.slots) {
    const bool is_in_source = stored[view.index_of(slot)];
    if (slot.role == slot_role::undeclared_buffer) {
      slot.role = is_in_source ? slot_role::persistent_buffer : slot_role::non_persistent_buffer;
    } else if (slot.role == slot_role::non_persistent_buffer && is_in_source) {
      settled.unread.push_back(slot.fqn);
    } else if (slot.role == slot_role::persistent_buffer && keep_missing && !is_in_source) {
      slot.role = slot_role::non_persistent_buffer;
      settled.kept.push_back(slot.fqn);
    }
  }
  return settled;
}

/// Finds for every stored tensor of the module its tensor in the source. A tie group may be stored under any of its
/// names.
///
/// Pure, and equal on every rank: items in source order, so that reading is sequential, then the non-persistent buffers. What the source
/// has of buffers that are not persistent is neither read nor unexpected.
/// \pre buffers are settled.
/// \param tolerated  If given, missing and unexpected names are no errors, and are put there: unless the module wants tensors and
/// none of them is in the source.
/// \param initialises  What is missing will be made up. Then a source without any tensor is fine, and a tensor is an error that files
/// of the checkpoint hold but its index leaves out: nobody has asked to make that one up.
/// \throws what `require_no_mismatch` does; error{missing_tensor} where nothing matches.
[[nodiscard]] inline std::vector<load_item> match(const module_view& view, const state_dict_contents& contents,
                                                  unmatched_names* tolerated = nullptr, bool initialises = false) {
  const std::span<const tensor_descriptor> source = contents.tensors;
  constexpr auto none = static_cast<std::size_t>(-1);
  const std::vector<const slot_record*> slot_of = detail::slots_named(view, source);
  std::vector<std::size_t> item_of(view.tensors.size(), none);
  std::vector<load_item> items;
  items.reserve(view.tensors.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    const slot_record* const slot = slot_of[i];
    if (slot == nullptr || !detail::is_stored(*slot)) {
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

  const std::size_t matched = items.size();
  mismatches problems{.initialises = initialises};
  const detail::unlisted_files unlisted(contents.unlisted);
  std::size_t wanted = 0;
  for (std::size_t t = 0; t < view.tensors.size(); ++t) {
    const slot_record& slot = view.first_slot(view.tensors[t]);
    if (!detail::is_stored(slot)) {
      items.push_back({.tensor = t, .from_buffer = true});
      continue;
    }
    ++wanted;
    if (item_of[t] != none) {
      continue;
    }
    if (tolerated == nullptr || (initialises && !unlisted.of(view, view.tensors[t]).empty())) {
      problems.missing.push_back(t);
    } else {
      tolerated->missing.push_back(slot.fqn);
    }
  }
  const bool nothing_is_fine = tolerated == nullptr || (initialises && source.empty());
  if (wanted != 0 && matched == 0 && problems.missing.empty() && !nothing_is_fine) {
    detail::fail_without_match(std::span(tolerated->missing).last(wanted), contents);
  }
  for (std::size_t i = 0; i < source.size(); ++i) {
    const tensor_descriptor& tensor = source[i];
    const slot_record* const slot = slot_of[i];
    if (slot == nullptr && detail::lies_under_any(tensor.name, view.ignored_prefixes)) {
      continue;
    }
    if (slot == nullptr && tolerated != nullptr) {
      tolerated->unexpected.push_back(tensor.name);
    } else if (slot == nullptr) {
      problems.unexpected.push_back(i);
    } else if (detail::is_stored(*slot) && tensor.shape != slot->shape) {
      problems.shapes.push_back(i);
    } else if (detail::is_stored(*slot) && tensor.dtype != slot->dtype) {
      problems.dtypes.push_back(i);
    }
  }
  require_no_mismatch(view, contents, problems);
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
  if (item.from_buffer || item.missing || bits(contents.stored_dtype(item.source)) >= bits(wanted)) {
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
                        .from_buffer = item.from_buffer,
                        .generated = item.missing,
                        .extra_copies = item.copies.size()});
  }
  return requests;
}

}  // namespace fsdpinit
