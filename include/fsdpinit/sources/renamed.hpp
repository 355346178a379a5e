#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/sources/as_stored.hpp>
#include <fsdpinit/sources/pipe.hpp>
#include <fsdpinit/sources/source_view.hpp>

#include <concepts>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// The usual differences between the names of a checkpoint and those of a module, as rules for `renamed`.

namespace fsdpinit {

/// Names that begin with `from` begin with `to` instead; others stay.
struct replaced_prefix {
  std::string from;
  std::string to;

  [[nodiscard]] std::string operator()(std::string_view name) const {
    return name.starts_with(from) ? concat(to, name.substr(from.size())) : std::string(name);
  }
};

/// Names without `component`, wherever it stands between dots: what a wrapper has put in mid-path (`_orig_mod`,
/// `_fsdp_wrapped_module`). A name that is nothing else stays.
struct removed_component {
  std::string component;

  [[nodiscard]] std::string operator()(std::string_view name) const {
    std::string out;
    for (std::string_view rest = name;;) {
      const std::size_t dot = rest.find('.');
      const std::string_view part = rest.substr(0, dot);
      if (part != component) {
        append_to(out, out.empty() ? "" : ".", part);
      }
      if (dot == std::string_view::npos) {
        return out.empty() ? std::string(name) : out;
      }
      rest.remove_prefix(dot + 1);
    }
  }
};

/// From the name in the checkpoint to the name that the module knows: called once per tensor, when the source is
/// adapted.
template <class R>
concept RenameRule = requires(const R& rule, std::string_view name) {
  { std::string(rule(name)) } -> std::same_as<std::string>;
};

/// The names in the list, each by its own new one; others stay. A name in the list that no tensor has changes nothing.
class replaced_names {
 public:
  /// `{from, to}` each. \throws error{invalid_argument} for a name that is replaced twice, naming it.
  explicit replaced_names(const std::vector<std::pair<std::string, std::string>>& names) {
    for (const auto& [from, to] : names) {
      const auto [at, is_new] = names_.emplace(from, to);
      if (!is_new) {
        throw error(errc::invalid_argument, at->first,
                    concat("is to be renamed both to \"", printable(at->second), "\" and to \"", printable(to),
                           "\"; give each name once"));
      }
    }
  }

  [[nodiscard]] std::string operator()(std::string_view name) const {
    const auto at = names_.find(std::string(name));
    return at != names_.end() ? at->second : std::string(name);
  }

 private:
  std::map<std::string, std::string> names_;
};

namespace detail {

template <class S, class Rule>
[[nodiscard]] source_view<S> rename(S&& source, const Rule& rule) {
  const std::span<const tensor_descriptor> tensors = std::as_const(source).tensors();
  std::vector<tensor_descriptor> descriptors(tensors.begin(), tensors.end());
  std::vector<std::size_t> indices;
  indices.reserve(descriptors.size());
  std::map<std::string_view, std::size_t> by_name;
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    descriptors[i].name = std::string(rule(std::string_view(tensors[i].name)));
    const auto [first, is_new] = by_name.emplace(descriptors[i].name, i);
    if (!is_new) {
      throw error(errc::invalid_argument, descriptors[i].name,
                  concat("both \"", printable(stored_name(std::as_const(source), first->second)), "\" and \"",
                         printable(stored_name(std::as_const(source), i)),
                         "\" of the checkpoint get this name; change the rule, or leave one out with filtered()"));
    }
    indices.push_back(i);
  }
  const std::span<const unlisted_tensor> below = unlisted(std::as_const(source));
  std::vector<unlisted_tensor> beside(below.begin(), below.end());
  for (unlisted_tensor& each : beside) {
    each.name = each.name.empty() ? std::string() : std::string(rule(std::string_view(each.name)));
  }
  return {std::forward<S>(source), std::move(descriptors), std::move(indices), std::move(beside)};
}

}  // namespace detail

/// `source | renamed(rule)`: every tensor under the name that `rule` makes of its own, a callable
/// `std::string(std::string_view)`, `removed_component{"_orig_mod"}` for instance. Errors about a tensor give both names.
///
/// Cost n log n in the number of tensors, when the source is adapted; nothing per read. Adapting \throws
/// error{invalid_argument} where two tensors get one name, naming all three.
template <class Rule>
[[nodiscard]] auto renamed(Rule rule) {
  static_assert(RenameRule<Rule>, "fsdpinit: `rule` must be callable on a name, const: std::string(std::string_view)");
  return source_adaptor{
      [rule = std::move(rule)](auto&& source) { return detail::rename(std::forward<decltype(source)>(source), rule); }};
}

/// `source | renamed("model.", "")`: the prefix `from` becomes `to`; names without it stay.
[[nodiscard]] inline auto renamed(std::string from, std::string to) {
  return renamed(replaced_prefix{std::move(from), std::move(to)});
}

/// `source | renamed({{"wte.weight", "embed.weight"}, {"ln_f.weight", "norm.weight"}})`: exact names, `{from, to}`;
/// other names stay. \throws error{invalid_argument} for a name that is replaced twice.
[[nodiscard]] inline auto renamed(const std::vector<std::pair<std::string, std::string>>& names) {
  return renamed(replaced_names(names));
}

}  // namespace fsdpinit
