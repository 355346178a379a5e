#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/init/default_memory.hpp>
#include <fsdpinit/memory/host_memory.hpp>

#include <utility>

namespace fsdpinit::detail {

/// Where buckets are staged: in the module's own space if the host may touch it, else in the host memory that it names, or any.
template <MemorySpace Space>
[[nodiscard]] auto staging_for([[maybe_unused]] const Space& memory) {
  if constexpr (Space::host_accessible) {
    return memory;
  } else if constexpr (requires { memory.staging(); }) {
    return memory.staging();
  } else {
    return host_memory();
  }
}

template <class Space>
using staging_space = decltype(staging_for(std::declval<const Space&>()));

/// The memory of one call, of any type, and what its type and the communicator's have to do with each other.
class memory_in_use {
 public:
  /// `given` is nullptr where a space is to be made.
  template <MemorySpace Space, Communicator Data>
  memory_in_use(const Space* given, const Data& data) noexcept
      : given_(given), data_(&data), table_(&table_of<Space, Data>) {}

  /// A handle of the given space, or a space of this rank's own. \throws std::bad_alloc, what copying throws
  [[nodiscard]] memory_ref space() const { return table_->space(given_); }
  /// Where the buckets of such a space are staged. \throws the same
  [[nodiscard]] memory_ref staging(const memory_ref& space) const {
    return space.host_accessible() ? space : table_->staging(space);
  }
  /// Where buckets lie while they travel: memory that the communicator's peers can copy from, if it has such. \throws the same
  [[nodiscard]] memory_ref slots(const memory_ref& staging) const {
    return table_->slots == nullptr ? staging : table_->slots(data_, staging);
  }
  /// May the communicator send from and receive into the space?
  [[nodiscard]] bool is_accessible() const noexcept { return table_->is_accessible; }

 private:
  struct table {
    memory_ref (*space)(const void* given);
    memory_ref (*staging)(const memory_ref& space);
    memory_ref (*slots)(const void* data, const memory_ref& staging) = nullptr;  // for a communicator without its own
    bool is_accessible = false;
  };
  template <class Space, class Data>
  static constexpr table make_table() noexcept {
    table out{.space = [](const void* given) { return memory_ref(handle_or_own(static_cast<const Space*>(given))); },
              .staging = [](const memory_ref& space) { return memory_ref(staging_for(space.as<Space>())); },
              .is_accessible = CanAccess<Data, Space>};
    if constexpr (StagingCommunicator<Data, staging_space<Space>>) {
      out.slots = [](const void* data, const memory_ref& staging) {
        return memory_ref(static_cast<const Data*>(data)->staging(staging.as<staging_space<Space>>()));
      };
    }
    return out;
  }
  template <class Space, class Data>
  static constexpr table table_of = make_table<Space, Data>();

  const void* given_;
  const void* data_;
  const table* table_;
};

}  // namespace fsdpinit::detail
