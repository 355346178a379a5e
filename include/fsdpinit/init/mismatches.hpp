#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/module_view.hpp>
#include <fsdpinit/sources/name_rules.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// Why a module and a state dict do not fit, as one error: what differs, what explains it, what to do. Nothing here runs unless they
/// do not, and all of it is near linear in the number of tensors.

namespace fsdpinit {

/// What does not fit.
struct mismatches {
  std::vector<std::size_t> missing{};     ///< indices into module_view::tensors, in order
  std::vector<std::size_t> unexpected{};  ///< these three: into state_dict_contents::tensors, in order
  std::vector<std::size_t> shapes{};      ///< of tensors that have another shape
  std::vector<std::size_t> dtypes{};      ///< of tensors that have the shape, but another dtype
  bool initialises = false;               ///< what else is missing is made up

  [[nodiscard]] std::size_t size() const noexcept {
    return missing.size() + unexpected.size() + shapes.size() + dtypes.size();
  }
};

/// A rule for the names of a state dict under which all or nearly all of them are those of a module.
struct name_advice {
  std::string call{};     ///< what to write: `renamed("module.", "")`
  std::size_t found = 0;  ///< that many tensors of the module are in the state dict under the rule
};

namespace detail {

/// Is it to be in the checkpoint?
[[nodiscard]] inline bool is_stored(const slot_record& slot) noexcept {
  return slot.role != slot_role::non_persistent_buffer;
}

/// For each name that the index of the checkpoint leaves out, the file that holds it.
class unlisted_files {
 public:
  explicit unlisted_files(std::span<const unlisted_tensor> unlisted) {
    for (const unlisted_tensor& each : unlisted) {
      if (!each.name.empty()) {
        files_.emplace(each.name, each.file);
      }
    }
  }
  /// The file that holds the tensor under one of its names; empty where none does.
  [[nodiscard]] std::string_view of(const module_view& view, const stored_tensor& tensor) const {
    if (!files_.empty()) {
      for (const std::size_t slot : view.slots_of(tensor)) {
        if (const auto at = files_.find(view.slots[slot].fqn); at != files_.end()) {
          return at->second;
        }
      }
    }
    return {};
  }

 private:
  std::map<std::string_view, std::string_view> files_;
};

/// How many bytes of whole components two names have in common at their ends.
[[nodiscard]] inline std::size_t common_components(std::string_view a, std::string_view b) noexcept {
  std::size_t common = 0;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    if (a[a.size() - 1 - i] != b[b.size() - 1 - i]) {
      return common;
    }
    if (a[a.size() - 1 - i] == '.') {
      common = i;
    }
  }
  const std::string_view longer = a.size() < b.size() ? b : a;
  const std::size_t all = std::min(a.size(), b.size());
  return longer.size() == all || longer[longer.size() - 1 - all] == '.' ? all : common;
}

/// How alike two names are, from 0 to 1: what they have in common at their ends.
[[nodiscard]] inline double likeness(std::string_view a, std::string_view b) noexcept {
  const std::size_t shorter = std::min(a.size(), b.size());
  std::size_t head = 0;
  while (head < shorter && a[head] == b[head]) {
    ++head;
  }
  std::size_t tail = 0;
  while (tail < shorter - head && a[a.size() - 1 - tail] == b[b.size() - 1 - tail]) {
    ++tail;
  }
  return shorter == 0 ? 0.0 : static_cast<double>(head + tail) / static_cast<double>(std::max(a.size(), b.size()));
}

/// A few of them, from the first to the last.
[[nodiscard]] inline std::vector<std::size_t> sample_of(std::span<const std::size_t> indices) {
  constexpr std::size_t most = 8;
  std::vector<std::size_t> few;
  for (std::size_t i = 0; i < std::min(indices.size(), most); ++i) {
    few.push_back(indices[i * indices.size() / std::min(indices.size(), most)]);
  }
  return few;
}

/// Looks for one rule that explains most of what is missing. A few names of either side suggest rules; each rule is tried on all.
class name_explainer {
 public:
  name_explainer(const module_view& view, const state_dict_contents& contents, const mismatches& found)
      : view_(view), contents_(contents), found_(found) {
    for (const stored_tensor& tensor : view.tensors) {
      wanted_ += is_stored(view.first_slot(tensor)) ? 1U : 0U;
    }
  }

  /// \return nothing where no rule finds nine tenths of what the module wants, or of what the state dict holds.
  [[nodiscard]] std::optional<name_advice> explain() {
    if (found_.missing.empty() || found_.unexpected.empty()) {
      return std::nullopt;
    }
    for (const std::size_t i : sample_of(found_.unexpected)) {
      const std::string& stored = contents_.tensors[i].name;
      try_prefix(stored, closest(stored, found_.missing, [&](std::size_t t) { return wanted_name(t); }));
      try_components(stored);
    }
    for (const std::size_t t : sample_of(found_.missing)) {
      const auto name_of = [&](std::size_t i) { return std::string_view(contents_.tensors[i].name); };
      try_prefix(closest(wanted_name(t), found_.unexpected, name_of), wanted_name(t));
    }
    return best_.found == 0 ? std::nullopt : std::optional(best_);
  }

 private:
  [[nodiscard]] std::string_view wanted_name(std::size_t tensor) const {
    return view_.first_slot(view_.tensors[tensor]).fqn;
  }

  /// The name that has most whole components in common with `name`, from the end.
  template <class NameOf>
  [[nodiscard]] std::string_view closest(std::string_view name, std::span<const std::size_t> among,
                                         const NameOf& name_of) const {
    std::string_view best;
    std::size_t most = 0;
    for (const std::size_t index : among) {
      const std::size_t common = common_components(name, name_of(index));
      if (common > most) {
        most = common;
        best = name_of(index);
      }
    }
    return best;
  }

  void try_prefix(std::string_view stored, std::string_view wanted) {
    const std::size_t common = common_components(stored, wanted);
    replaced_prefix rule{.from = std::string(stored.substr(0, stored.size() - common)),
                         .to = std::string(wanted.substr(0, wanted.size() - common))};
    if (common == 0) {
      return;
    }
    std::string call = concat("renamed(\"", printable(rule.from), "\", \"", printable(rule.to), "\")");
    // Two names that have nothing but their ends in common are no pattern.
    try_rule(rule, std::move(call), rule.from.empty() || rule.to.empty() ? 1 : 2);
  }

  void try_components(std::string_view stored) {
    for (std::string_view rest = stored; !rest.empty();) {
      const std::string_view part = rest.substr(0, rest.find('.'));
      rest.remove_prefix(std::min(rest.size(), part.size() + 1));
      removed_component rule{.component = std::string(part)};
      if (wanting(rule(stored)) != nullptr) {
        std::string call = concat("renamed(removed_component{\"", printable(rule.component), "\"})");
        try_rule(rule, std::move(call), 1);
      }
    }
  }

  [[nodiscard]] const slot_record* wanting(std::string_view name) const {
    const slot_record* const slot = view_.find(name);
    return slot != nullptr && is_stored(*slot) ? slot : nullptr;
  }

  /// Keeps the rule if it finds most so far, at least `least` tensors more than there are now.
  template <class Rule>
  void try_rule(const Rule& rule, std::string call, std::size_t least) {
    if (std::find(tried_.begin(), tried_.end(), call) != tried_.end()) {
      return;
    }
    tried_.push_back(call);
    std::vector<bool> taken(view_.slots.size());
    std::vector<bool> present(view_.tensors.size());
    std::size_t found = 0;
    for (const tensor_descriptor& tensor : contents_.tensors) {
      const slot_record* const slot = wanting(rule(tensor.name));
      if (slot == nullptr) {
        continue;
      }
      if (taken[view_.index_of(*slot)]) {
        return;  // two tensors would get one name
      }
      taken[view_.index_of(*slot)] = true;
      found += present[slot->tensor] ? 0U : 1U;
      present[slot->tensor] = true;
    }
    const auto most_of = [&](std::size_t all) { return 10 * found >= 9 * all; };
    const std::size_t now = wanted_ - found_.missing.size();
    if (found >= now + least && found > best_.found && (most_of(wanted_) || most_of(contents_.tensors.size()))) {
      best_ = {.call = std::move(call), .found = found};
    }
  }

  const module_view& view_;
  const state_dict_contents& contents_;
  const mismatches& found_;
  std::size_t wanted_ = 0;  // tensors that are to be in the checkpoint
  std::vector<std::string> tried_;
  name_advice best_;
};

/// Says in words what does not fit.
class mismatch_text {
 public:
  mismatch_text(const module_view& view, const state_dict_contents& contents, const mismatches& found)
      : view_(view),
        contents_(contents),
        found_(found),
        unlisted_(contents.unlisted),
        advice_(name_explainer(view, contents, found).explain()) {}

  struct problem {
    errc code;
    std::string_view subject;
    std::string what;
    std::string remedy;
  };

  [[nodiscard]] problem missing(std::size_t tensor) const {
    const slot_record& slot = view_.first_slot(view_.tensors[tensor]);
    if (const std::string_view holder = unlisted_.of(view_, view_.tensors[tensor]); !holder.empty()) {
      return {.code = errc::missing_tensor,
              .subject = slot.fqn,
              .what = concat("missing: stored in ", printable(holder), ", but the index does not list it"),
              .remedy =
                  concat("download or save the index again",
                         found_.initialises ? ", or leave the tensor out with filtered() to have it initialised" : "")};
    }
    const std::string* const meant = advice_ ? nullptr : meant_by(slot);
    return {
        .code = errc::missing_tensor,
        .subject = slot.fqn,
        .what = concat("missing: the module wants it, the checkpoint does not have it",
                       meant != nullptr ? concat(" (did you mean ", printable(*meant, 100), "?)") : ""),
        .remedy = advice_            ? advice_text()
                  : meant != nullptr ? concat("read the checkpoint through renamed({{\"", printable(*meant), "\", \"",
                                              printable(slot.fqn), "\"}}) if that is the same tensor")
                  : slot.role == slot_role::persistent_buffer
                      ? "let the module keep its own value of such buffers with keep_missing_buffers = true, or check "
                        "that this is the model's checkpoint, and its prefix"
                      : "check that this is the model's checkpoint, and its prefix"};
  }

  [[nodiscard]] problem unexpected(std::size_t i) const {
    return {.code = errc::unexpected_tensor,
            .subject = contents_.tensors[i].name,
            .what = concat("unexpected: the checkpoint has it", stored_as(i), ", the module does not want it"),
            .remedy = advice_
                          ? advice_text()
                          : "leave it out with filtered(), put its prefix into ignored_prefixes, or let all that is "
                            "missing or unexpected pass with strict = false"};
  }

  [[nodiscard]] problem shape(std::size_t i) const {
    const slot_record& slot = *view_.find(contents_.tensors[i].name);
    return {.code = errc::shape_mismatch,
            .subject = slot.fqn,
            .what = concat("the checkpoint has shape ", to_string(contents_.tensors[i].shape), stored_as(i),
                           ", the module ", to_string(slot.shape)),
            .remedy = "check the model's configuration"};
  }

  [[nodiscard]] problem dtype(std::size_t i) const {
    const slot_record& slot = *view_.find(contents_.tensors[i].name);
    const fsdpinit::dtype seen = contents_.tensors[i].dtype;
    const fsdpinit::dtype stored = contents_.stored_dtype(i);
    return {.code = errc::dtype_mismatch,
            .subject = slot.fqn,
            .what = concat("the checkpoint has ", name(stored), stored_as(i),
                           seen == stored ? "" : concat(", cast to ", name(seen)), ", the module ", name(slot.dtype)),
            .remedy = remedy_of(stored, seen, slot.dtype)};
  }

 private:
  [[nodiscard]] std::string advice_text() const {
    return concat("read the checkpoint through ", advice_->call, ", which finds ", advice_->found, " of the module's ",
                  view_.tensors.size(), " tensors");
  }

  [[nodiscard]] std::string stored_as(std::size_t i) const {
    const std::string& stored = contents_.stored_name(i);
    return stored == contents_.tensors[i].name ? std::string() : concat(" (stored as ", printable(stored, 100), ")");
  }

  [[nodiscard]] static std::string remedy_of(fsdpinit::dtype stored, fsdpinit::dtype seen, fsdpinit::dtype wanted) {
    const auto cast = [](fsdpinit::dtype to) {
      std::string out = "cast(dtype::";
      for (const char c : name(to)) {
        out += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
      }
      return out + ")";
    };
    if (!is_convertible(stored, wanted)) {
      return concat(
          "cast() makes F32, F16 and BF16 of these and of F64 and nothing else: give the module the dtype of ",
          seen == stored ? "the checkpoint" : "the cast", ", or convert the checkpoint");
    }
    if (seen != stored) {
      return seen == wanted || stored == wanted
                 ? concat("exempt it from the cast, by the predicate of cast()")
                 : concat("use ", cast(wanted), " for it, or give the module the dtype that it is cast to");
    }
    return concat("nothing is cast unasked: read the checkpoint through ", cast(wanted),
                  ", give the module the checkpoint's dtype, or convert the checkpoint");
  }

  /// The tensor that nobody wants and that has this one's shape and dtype, if it is the only one on both sides or clearly the most
  /// alike by name; nullptr where there is none.
  [[nodiscard]] const std::string* meant_by(const slot_record& slot) const {
    const auto fits = [&](fsdpinit::dtype type, const fsdpinit::shape& extents) {
      return type == slot.dtype && extents == slot.shape;
    };
    const std::string* best = nullptr;
    double most = 0;
    double next = 0;
    std::size_t candidates = 0;
    for (const std::size_t i : found_.unexpected) {
      const tensor_descriptor& tensor = contents_.tensors[i];
      if (!fits(tensor.dtype, tensor.shape)) {
        continue;
      }
      ++candidates;
      const double alike = likeness(tensor.name, slot.fqn);
      if (best == nullptr || alike > most) {
        next = std::exchange(most, alike);
        best = &tensor.name;
      } else {
        next = std::max(next, alike);
      }
    }
    if (candidates == 1 && std::count_if(found_.missing.begin(), found_.missing.end(), [&](std::size_t t) {
                             const slot_record& other = view_.first_slot(view_.tensors[t]);
                             return fits(other.dtype, other.shape);
                           }) == 1) {
      return best;
    }
    constexpr double half = 0.5;
    return most > half && most > next ? best : nullptr;
  }

  const module_view& view_;
  const state_dict_contents& contents_;
  const mismatches& found_;
  unlisted_files unlisted_;
  std::optional<name_advice> advice_;
};

}  // namespace detail

/// \throws error{missing_tensor, unexpected_tensor, shape_mismatch, dtype_mismatch}, after the first problem, if there is one: up to
/// 20 of them, a share of each sort, and how many more there are. Where one rule for names explains them it says which, and of a
/// missing tensor which of the unexpected ones may be meant. Pure, and equal on every rank.
inline void require_no_mismatch(const module_view& view, const state_dict_contents& contents, const mismatches& found) {
  constexpr std::size_t most_shown = 20;
  if (found.size() == 0) {
    return;
  }
  const detail::mismatch_text text(view, contents, found);
  using problem = detail::mismatch_text::problem;
  struct sort {
    const char* called;
    const std::vector<std::size_t>* all;
    problem (detail::mismatch_text::*in_words)(std::size_t) const;
    std::size_t shown = 0;
  };
  std::array<sort, 4> sorts{{{"missing", &found.missing, &detail::mismatch_text::missing},
                             {"unexpected", &found.unexpected, &detail::mismatch_text::unexpected},
                             {"of another shape", &found.shapes, &detail::mismatch_text::shape},
                             {"of another dtype", &found.dtypes, &detail::mismatch_text::dtype}}};
  const std::size_t shown = std::min(found.size(), most_shown);
  for (std::size_t left = shown; left != 0;) {
    for (sort& each : sorts) {
      if (left != 0 && each.shown != each.all->size()) {
        ++each.shown;
        --left;
      }
    }
  }
  std::optional<problem> first;
  std::string lines;
  for (const sort& each : sorts) {
    for (std::size_t i = 0; i < each.shown; ++i) {
      problem one = (text.*each.in_words)((*each.all)[i]);
      lines += concat("\n  ", printable(one.subject, 100), ": ", one.what);
      if (!first) {
        first = std::move(one);
      }
    }
    if (each.shown != each.all->size()) {
      lines += concat("\n  and ", each.all->size() - each.shown, " more ", each.called);
    }
  }
  throw error(first->code, first->subject,
              concat(first->what, "; ", first->remedy,
                     found.size() == 1 ? "" : concat(" (", found.size(), " such problems)", lines)),
              {.rank = every_rank});
}

}  // namespace fsdpinit
