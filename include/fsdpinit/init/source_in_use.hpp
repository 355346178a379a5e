#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/compiler.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <optional>
#include <type_traits>
#include <utility>

namespace fsdpinit {

/// Passed in the place of a source: the values that the module itself holds on the source rank (loaded, and perhaps edited,
/// before), whole tensors in the module's memory space. What other ranks hold is dropped.
///
/// Each tensor is released as soon as its last byte has left, so that the source rank's memory falls while its shards fill
/// (`options::release_source`).
struct module_state {};

}  // namespace fsdpinit

namespace fsdpinit::detail {

template <class Source>
inline constexpr bool is_module_state = std::is_same_v<std::remove_cv_t<Source>, module_state>;

/// What was passed as the source, of any type.
class source_in_use {
 public:
  source_in_use(const source_in_use&) = delete;
  source_in_use& operator=(const source_in_use&) = delete;
  /// The state dict, on a rank that reads; until this object goes. \throws what opening throws.
  [[nodiscard]] virtual source_ref open() = 0;

 protected:
  source_in_use() = default;
  ~source_in_use() = default;
};

template <StateDictSource Source>
class given_source final : public source_in_use {
 public:
  explicit given_source(Source& given) noexcept : given_(given) {}
  [[nodiscard]] source_ref open() override { return given_; }

 private:
  Source& given_;
};

template <SourceOpener Opener>
class opened_source final : public source_in_use {
 public:
  explicit opened_source(Opener& given) noexcept : given_(given) {}
  [[nodiscard]] source_ref open() override { return own_.emplace(given_()); }

 private:
  Opener& given_;
  std::optional<decltype(std::declval<Opener&>()())> own_;
};

template <class Source>
struct source_in_use_of {
  using type = given_source<Source>;
};
template <SourceOpener Opener>
struct source_in_use_of<Opener> {
  using type = opened_source<Opener>;
};

}  // namespace fsdpinit::detail
