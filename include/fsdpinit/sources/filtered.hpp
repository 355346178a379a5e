#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/sources/as_stored.hpp>
#include <fsdpinit/sources/pipe.hpp>
#include <fsdpinit/sources/source_view.hpp>

#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit {

/// Chooses tensors by name: called once per tensor, when the source is adapted.
template <class P>
concept NamePredicate = requires(const P& predicate, std::string_view name) {
  { predicate(name) } -> std::convertible_to<bool>;
};

namespace detail {

template <class S, class Predicate>
[[nodiscard]] source_view<S> filter(S&& source, const Predicate& keep) {
  const std::span<const tensor_descriptor> tensors = std::as_const(source).tensors();
  std::vector<tensor_descriptor> descriptors;
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (keep(std::string_view(tensors[i].name))) {
      descriptors.push_back(tensors[i]);
      indices.push_back(i);
    }
  }
  std::vector<unlisted_tensor> beside;
  for (const unlisted_tensor& each : unlisted(std::as_const(source))) {
    if (each.name.empty() || keep(std::string_view(each.name))) {
      beside.push_back(each);
    }
  }
  return {std::forward<S>(source), std::move(descriptors), std::move(indices), std::move(beside)};
}

}  // namespace detail

/// `source | filtered(predicate)`: the tensors whose name satisfies it, a callable `bool(std::string_view)`, in the
/// source's order; the others are not part of the state dict.
///
/// Cost linear in the number of tensors, when the source is adapted; nothing per read.
template <class Predicate>
[[nodiscard]] auto filtered(Predicate keep) {
  static_assert(NamePredicate<Predicate>, "fsdpinit: `keep` must be callable on a name, const: bool(std::string_view)");
  return source_adaptor{
      [keep = std::move(keep)](auto&& source) { return detail::filter(std::forward<decltype(source)>(source), keep); }};
}

}  // namespace fsdpinit
