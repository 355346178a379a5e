#pragma once

#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/init/module_state.hpp>
#include <fsdpinit/init/module_view.hpp>

#include <optional>
#include <type_traits>
#include <utility>

namespace fsdpinit::detail {

template <class Source>
inline constexpr bool is_module_state = std::is_same_v<std::remove_cv_t<Source>, module_state>;

/// The state dict behind what was passed: itself, what the opener opens, or the module's own state.
template <class Source, class Space>
struct opened_source {
  using type = Source;
};
template <SourceOpener Source, class Space>
struct opened_source<Source, Space> {
  using type = decltype(std::declval<Source&>()());
};
template <class Source, class Space>
  requires is_module_state<Source>
struct opened_source<Source, Space> {
  using type = module_state_source<Space>;
};

/// What was passed as the source, opened on the ranks that read and closed with this object; on others nothing.
template <class Source, class Space>
class source_in_use {
 public:
  using opened = typename opened_source<Source, Space>::type;

  explicit source_in_use(Source& given) noexcept : given_(given) {}
  source_in_use(const source_in_use&) = delete;
  source_in_use& operator=(const source_in_use&) = delete;

  /// The state dict, until `leave`. \throws what opening throws.
  opened& open()
    requires(!is_module_state<Source>)
  {
    if constexpr (SourceOpener<Source>) {
      source_ = &own_.emplace(given_());
    } else {
      source_ = &given_;
    }
    return *source_;
  }
  /// The same, of a module's own state. `view` outlives this object.
  opened& open(const module_view& view, const Space& memory, bool releases)
    requires is_module_state<Source>
  {
    source_ = &own_.emplace(view, memory, releases);
    return *source_;
  }
  /// This rank does not read after all.
  void leave() noexcept { source_ = nullptr; }

  /// nullptr where nothing is opened.
  [[nodiscard]] opened* get() const noexcept { return source_; }

 private:
  Source& given_;
  std::optional<opened> own_;
  opened* source_ = nullptr;
};

}  // namespace fsdpinit::detail
