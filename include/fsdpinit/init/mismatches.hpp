#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/name_advice.hpp>
#include <fsdpinit/modules/module_view.hpp>

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

namespace detail {

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

/// Says in words what does not fit.
class mismatch_text {
 public:
  mismatch_text(const module_view& view, const state_dict_contents& contents, const mismatches& found)
      : view_(view),
        contents_(contents),
        found_(found),
        unlisted_(contents.unlisted),
        advice_(name_explainer(view, contents, found.missing, found.unexpected).explain()) {}

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
