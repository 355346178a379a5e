#pragma once

#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/slot.hpp>

#include <boost/hana/accessors.hpp>
#include <boost/hana/at.hpp>
#include <boost/hana/concept/struct.hpp>
#include <boost/hana/core/to.hpp>
#include <boost/hana/first.hpp>
#include <boost/hana/second.hpp>
#include <boost/hana/size.hpp>
#include <boost/hana/string.hpp>
#include <boost/hana/tuple.hpp>

#include <array>
#include <cstddef>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

/// \file
/// A plain struct adapted with BOOST_HANA_ADAPT_STRUCT (or, for templates, declared with BOOST_HANA_DEFINE_STRUCT) is a
/// module tree: member names and container indices, joined by dots, are the FQNs.

namespace fsdpinit {

/// Is there nothing to initialise in a member of this type? A struct that is adapted shows members of class type only if they are
/// slots, modules, containers of these, or hold none: so that a module whose adaptation was forgotten does not compile, rather than
/// being skipped. Scalars, pointers, classes without data, strings, functions, and standard containers of what holds none, hold none.
/// Say it of a type of your own, before the module is used, or leave the member out of BOOST_HANA_ADAPT_STRUCT:
///
///     template <> inline constexpr bool fsdpinit::holds_no_slots<my::config> = true;
template <class T>
inline constexpr bool holds_no_slots = !ParameterSlot<T> && !ShardableModule<T> && [] {
  if constexpr (std::is_class_v<T> && requires { sizeof(T); }) {  // it may be incomplete, behind a pointer
    return std::is_empty_v<T>;
  } else {
    return !std::is_class_v<T> && !std::is_union_v<T>;
  }
}();
template <class Char, class Traits, class Allocator>
inline constexpr bool holds_no_slots<std::basic_string<Char, Traits, Allocator>> = true;
template <class Char, class Traits>
inline constexpr bool holds_no_slots<std::basic_string_view<Char, Traits>> = true;
/// std::function and its like.
template <template <class> class Function, class Result, class... Arguments>
inline constexpr bool holds_no_slots<Function<Result(Arguments...)>> = true;
template <class T, std::size_t N>
inline constexpr bool holds_no_slots<T[N]> = holds_no_slots<std::remove_cv_t<T>>;
template <class T, std::size_t N>
inline constexpr bool holds_no_slots<std::array<T, N>> = holds_no_slots<std::remove_cv_t<T>>;
template <class T, class Allocator>
inline constexpr bool holds_no_slots<std::vector<T, Allocator>> = holds_no_slots<T>;
template <class T>
inline constexpr bool holds_no_slots<std::optional<T>> = holds_no_slots<std::remove_cv_t<T>>;
template <class T, class Deleter>
inline constexpr bool holds_no_slots<std::unique_ptr<T, Deleter>> =
    holds_no_slots<std::remove_cv_t<std::remove_extent_t<T>>>;
template <class T>
inline constexpr bool holds_no_slots<std::shared_ptr<T>> = holds_no_slots<std::remove_cv_t<std::remove_extent_t<T>>>;
template <class... Ts>
inline constexpr bool holds_no_slots<std::tuple<Ts...>> = (holds_no_slots<std::remove_cv_t<Ts>> && ...);
template <class A, class B>
inline constexpr bool holds_no_slots<std::pair<A, B>> =
    holds_no_slots<std::remove_cv_t<A>> && holds_no_slots<std::remove_cv_t<B>>;
template <class Key, class T, class Order, class Allocator>
inline constexpr bool holds_no_slots<std::map<Key, T, Order, Allocator>> = holds_no_slots<std::pair<Key, T>>;
template <class Key, class Order, class Allocator>
inline constexpr bool holds_no_slots<std::set<Key, Order, Allocator>> = holds_no_slots<Key>;

namespace detail {

template <class T>
inline constexpr bool is_sequence = std::is_bounded_array_v<T>;
template <class T, class A>
inline constexpr bool is_sequence<std::vector<T, A>> = true;
template <class T, std::size_t N>
inline constexpr bool is_sequence<std::array<T, N>> = true;

template <class T>
inline constexpr bool is_optional_child = false;
template <class T>
inline constexpr bool is_optional_child<std::optional<T>> = true;
template <class T, class D>
inline constexpr bool is_optional_child<std::unique_ptr<T, D>> = !std::is_array_v<T>;
template <class T>
inline constexpr bool is_optional_child<std::shared_ptr<T>> = !std::is_array_v<T>;

template <class T>
concept AdaptedStruct = boost::hana::Struct<T>::value;

/// Appends a component to the FQN being built and takes it away again; an empty one is none.
class fqn_scope {
 public:
  fqn_scope(std::string& fqn, std::string_view component) : fqn_(fqn), length_(fqn.size()) {
    if (component.empty()) {
      return;
    }
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

/// What may hold slots is walked, whatever it is.
template <class T>
inline constexpr bool is_walked =
    ParameterSlot<T> || ShardableModule<T> || AdaptedStruct<T> || is_sequence<T> || is_optional_child<T>;
template <class T>
inline constexpr bool is_walkable = is_walked<T> || holds_no_slots<std::remove_cv_t<T>>;

/// Where T is neither walked nor known to hold no slots, the compiler says so, and names it beside that. \return is it one of the two?
template <class T>
[[nodiscard]] consteval bool require_walkable() {
  static_assert(
      is_walkable<T>,
      "fsdpinit: a member of a module is of a class T that is no slot, module, or container of these, and its "
      "tensors would be skipped; adapt it with BOOST_HANA_ADAPT_STRUCT, or specialise fsdpinit::slot_traits, "
      "fsdpinit::module_traits, or, if there are none in it, fsdpinit::holds_no_slots");
  return is_walkable<T>;
}

template <class T>
using accessors_of = decltype(boost::hana::accessors<T>());
template <class T>
using member_indices = std::make_index_sequence<decltype(boost::hana::size(std::declval<accessors_of<T>>()))::value>;

template <class T, class Visitor>
void walk(T& node, std::string& fqn, std::string_view component, Visitor& visitor);

/// A fold rather than `hana::for_each`, in which compilers would tell of each error through a dozen functions.
template <class T, class Visitor, std::size_t... I>
void walk_members(T& node, std::string& fqn, Visitor& visitor, std::index_sequence<I...> /*members*/) {
  [[maybe_unused]] constexpr auto members = boost::hana::accessors<T>();  // unused where there are none
  (walk(boost::hana::second(boost::hana::at_c<I>(members))(node), fqn,
        boost::hana::to<const char*>(boost::hana::first(boost::hana::at_c<I>(members))), visitor),
   ...);
}

/// \param component  what the node is called in that to which `fqn` belongs.
template <class T, class Visitor>
void walk(T& node, std::string& fqn, std::string_view component, Visitor& visitor) {
  const fqn_scope scope(fqn, component);
  if constexpr (!require_walkable<T>() || holds_no_slots<std::remove_cv_t<T>>) {
    return;
  } else if constexpr (ParameterSlot<T>) {
    visitor(std::string_view(fqn), node);
  } else if constexpr (is_optional_child<T>) {
    if (node) {
      walk(*node, fqn, {}, visitor);
    }
  } else if constexpr (is_sequence<T>) {
    for (std::size_t i = 0; i < std::size(node); ++i) {
      walk(node[i], fqn, std::to_string(i), visitor);
    }
  } else if constexpr (AdaptedStruct<T> && !VisitsSlots<T>) {
    walk_members(node, fqn, visitor, member_indices<T>());
  } else if constexpr (ShardableModule<T>) {
    module_traits<T>::visit_slots(node, [&](std::string_view below, auto& slot) {
      const fqn_scope scope_below(fqn, below);
      visitor(std::string_view(fqn), slot);
    });
  }
}

}  // namespace detail

/// Struct member -> its name; std::vector, std::array, a C array -> the index; std::optional, std::unique_ptr, std::shared_ptr ->
/// itself, skipped when empty; a member that is a module of another kind (`dynamic_module`) -> its FQNs behind the member's name.
/// Members that hold no slots (`holds_no_slots`) are left alone, also pointers and references to modules: they own nothing. Others
/// do not compile. Ties: a member function `tie_groups()`; what two std::shared_ptr share is visited twice, and is to be tied.
template <class M>
  requires(detail::AdaptedStruct<M> && !detail::VisitsSlots<M>)
struct module_traits<M> {
  template <class Visitor>
  static void visit_slots(M& module, Visitor&& visitor) {
    std::string fqn;
    detail::walk_members(module, fqn, visitor, detail::member_indices<M>());
  }
};

}  // namespace fsdpinit
