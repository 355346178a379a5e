#pragma once

#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/slot.hpp>

#include <boost/hana/accessors.hpp>
#include <boost/hana/at.hpp>
#include <boost/hana/concept/struct.hpp>
#include <boost/hana/core/to.hpp>
#include <boost/hana/first.hpp>
#include <boost/hana/for_each.hpp>
#include <boost/hana/second.hpp>
#include <boost/hana/string.hpp>
#include <boost/hana/tuple.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

/// \file
/// A plain struct adapted with BOOST_HANA_ADAPT_STRUCT (or, for templates, declared with BOOST_HANA_DEFINE_STRUCT) is a
/// module tree: member names and container indices, joined by dots, are the FQNs.

namespace fsdpinit {

namespace detail {

template <class T>
inline constexpr bool is_sequence = false;
template <class T, class A>
inline constexpr bool is_sequence<std::vector<T, A>> = true;
template <class T, std::size_t N>
inline constexpr bool is_sequence<std::array<T, N>> = true;

template <class T>
inline constexpr bool is_optional_child = false;
template <class T>
inline constexpr bool is_optional_child<std::optional<T>> = true;
template <class T, class D>
inline constexpr bool is_optional_child<std::unique_ptr<T, D>> = true;

template <class T>
concept AdaptedStruct = boost::hana::Struct<T>::value;

/// Is there a slot anywhere in it? Other members (a learning rate, a name) are no business of ours.
template <class T>
concept HoldsSlots = ParameterSlot<T> || VisitsSlots<T> || AdaptedStruct<T> || is_sequence<T> || is_optional_child<T>;

/// Appends a component to the FQN being built and takes it away again.
class fqn_scope {
 public:
  fqn_scope(std::string& fqn, std::string_view component) : fqn_(fqn), length_(fqn.size()) {
    if (length_ != 0) {
      fqn_ += '.';
    }
    fqn_ += component;
  }
  fqn_scope(const fqn_scope&) = delete;
  fqn_scope& operator=(const fqn_scope&) = delete;
  ~fqn_scope() { fqn_.resize(length_); }

 private:
  std::string& fqn_;
  std::size_t length_;
};

template <class T, class Visitor>
void walk(T& node, std::string& fqn, Visitor& visitor) {
  if constexpr (ParameterSlot<T>) {
    visitor(std::string_view(fqn), node);
  } else if constexpr (VisitsSlots<T>) {
    node.visit_slots([&](std::string_view below, auto& slot) {
      const fqn_scope scope(fqn, below);
      visitor(std::string_view(fqn), slot);
    });
  } else if constexpr (is_optional_child<T>) {
    if (node) {
      walk(*node, fqn, visitor);
    }
  } else if constexpr (is_sequence<T>) {
    if constexpr (HoldsSlots<typename T::value_type>) {
      for (std::size_t i = 0; i < node.size(); ++i) {
        const fqn_scope scope(fqn, std::to_string(i));
        walk(node[i], fqn, visitor);
      }
    }
  } else if constexpr (AdaptedStruct<T>) {
    boost::hana::for_each(boost::hana::accessors<T>(), [&](auto accessor) {
      auto& member = boost::hana::second(accessor)(node);
      if constexpr (HoldsSlots<std::remove_reference_t<decltype(member)>>) {
        const fqn_scope scope(fqn, boost::hana::to<const char*>(boost::hana::first(accessor)));
        walk(member, fqn, visitor);
      }
    });
  }
}

}  // namespace detail

/// Struct member -> its name; std::vector, std::array -> the index; std::optional, std::unique_ptr -> itself, skipped
/// when empty; a member that visits its own slots (a `dynamic_module`, say) -> its FQNs behind the member's name. Members
/// that are none of these and no slots are left alone. Ties: a member function `tie_groups()`.
template <class M>
  requires(detail::AdaptedStruct<M> && !detail::VisitsSlots<M>)
struct module_traits<M> {
  template <class Visitor>
  static void visit_slots(M& module, Visitor&& visitor) {
    std::string fqn;
    detail::walk(module, fqn, visitor);
  }
};

}  // namespace fsdpinit
