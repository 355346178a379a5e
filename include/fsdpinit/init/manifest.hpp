#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/options.hpp>
#include <fsdpinit/modules/module_view.hpp>
#include <fsdpinit/plan/verification.hpp>

#include <string>
#include <string_view>

namespace fsdpinit {

/// What a rank's module is: a line for each slot with its role, dtype, shape, placement and tie; then, as the units
/// follow from the slots, a line for each tensor that is in another unit than the one before it. Equal on every rank, or the call is an error. Text rather than a
/// digest, so that equality is exact and the first difference can be named.
inline void append_manifest(std::string& out, const module_view& view) {
  out.reserve(out.size() + 160 * view.slots.size());  // a guess
  const auto first_name = [&](const stored_tensor& tensor) -> const std::string& {
    return view.first_slot(tensor).fqn;
  };
  for (const slot_record& slot : view.slots) {
    append_to(out, name(slot.role), " ");
    detail::append_escaped(out, slot.fqn);
    append_to(out, " ", name(slot.dtype), " ");
    append(out, slot.shape);
    append_to(out, " ", to_string(slot.placement));
    const stored_tensor& tensor = view.tensors[slot.tensor];
    if (slot.role == slot_role::parameter && !slot.requires_grad) {
      out += " frozen";
    }
    if (&view.first_slot(tensor) != &slot) {
      out += " tied to ";
      detail::append_escaped(out, first_name(tensor));
    }
    out += '\n';
  }
  out += "no more parameters or buffers\n";  // a name for the end, should another rank have more
  for (const std::string& fqn : view.ignored) {
    out += "ignored ";
    detail::append_escaped(out, fqn);
    out += '\n';
  }
  const stored_tensor* before = nullptr;
  for (const stored_tensor& tensor : view.tensors) {
    if (before == nullptr || tensor.unit != before->unit) {
      detail::append_escaped(out, first_name(tensor));
      out += tensor.unit == 0 ? " in the root" : " in unit ";
      detail::append_escaped(out, view.units[tensor.unit]);  // the root's is empty
      out += '\n';
    }
    before = &tensor;
  }
}

/// What else a call is made of, by its types: they decide which agreements there are.
struct call_kind {
  std::string_view policy;
  std::string_view transport;
  bool from_module = false;          ///< the module's own state is the source
  bool initialises_missing = false;  ///< what the source does not have is made
};

/// The same, and before it policy, source, options and mesh.
[[nodiscard]] inline std::string manifest_of(const module_view& view, const options& how, const call_kind& kind,
                                             std::size_t ranks) {
  std::string out = concat(
      "policy ", kind.policy, "\ntransport ", kind.transport, "\nsource ",
      kind.from_module ? "the module's own state" : "a state dict", "\nmissing tensors ",
      kind.initialises_missing ? "initialised" : "left on meta", "\nranks ", ranks, "\nreplicas ", how.replicas,
      "\nbucket_bytes ", how.bucket_bytes, "\nbuckets_in_flight ", how.buckets_in_flight, "\nsource_rank ",
      how.source_rank, "\nsource_ranks ", how.source_ranks == source_ranks::one ? "one" : "per_node", "\nchoose ",
      how.choose ? "a function" : "by the size of chunks", "\nstrict ", how.strict ? 1 : 0, "\nkeep_missing_buffers ",
      how.keep_missing_buffers ? 1 : 0, "\nrelease_source ", how.release_source ? 1 : 0, "\nverify ", name(how.verify),
      how.verify == verification::off ? "" : concat(" ", detail::checksum_of(how)->name), "\n");
  append_manifest(out, view);
  return out;
}

/// \throws error{disagreement} naming the first line in which the manifests differ.
inline void require_equal_manifests(std::string_view reference, std::string_view mine) {
  if (reference == mine) {
    return;
  }
  const auto take_line = [](std::string_view& rest) {
    const std::size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
    return line;
  };
  while (!reference.empty() || !mine.empty()) {
    const std::string_view theirs = take_line(reference);
    const std::string_view ours = take_line(mine);
    if (theirs != ours) {
      const auto shown = [](std::string_view line) {
        return line.empty() ? std::string("nothing more") : concat("'", line.substr(0, 1000), "'");
      };
      throw error(errc::disagreement, "",
                  concat("this rank was called with ", shown(ours), " where rank 0 has ", shown(theirs),
                         "; call every rank with the same module, policy and options"));
    }
  }
}

}  // namespace fsdpinit
