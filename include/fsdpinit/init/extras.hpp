#pragma once

#include <fsdpinit/concepts/optimizer_ref.hpp>
#include <fsdpinit/init/memory_argument.hpp>
#include <fsdpinit/init/missing_tensor.hpp>
#include <fsdpinit/observe/observer_ref.hpp>
#include <fsdpinit/observe/stop_ref.hpp>

#include <optional>

namespace fsdpinit {

/// What a call may be given besides, by name: `initialize(module, source, links, options, {.memory = device, .observer = watch})`. Each refers
/// to what it was made of, of any type, which must live as long as the call: what is made in the argument itself does.
struct extras {
  /// Where shards live: a MemorySpace; without one a `host_memory` of this rank's own. Its account shows the predicted peak, to the
  /// byte; one initialisation at a time. Which of several it is may be decided when the program runs:
  /// `offload ? memory_argument(host) : memory_argument(device)`.
  memory_argument memory{};
  /// An Observer; one that is a WaitingObserver also hears of long waits, and a PollingObserver is called in them.
  observer_ref observer{};
  /// `{module, optimizer}`: a ShardableOptimizer that was made for the module before. It lets go of the parameters before they are
  /// dropped, and is bound to the shards, by name, at the commit.
  optimizer_of_module optimizer{};
  /// With `strict = false`: what to put into tensors that the source does not have, on each rank into its part (`normal_values`,
  /// `constant_values`, a MissingInitialiser of one's own); the memory must be host-accessible. Without, they stay on meta.
  std::optional<initialiser_ref> missing{};
  /// What asks for a stop: a `std::stop_token`, or anything with `bool stop_requested() const`, in the program of one rank or of several.
  /// Looked at wherever a PollingObserver is polled. Every rank then throws error{cancelled}, naming the rank; the call may be made again.
  stop_ref stop{};
};

/// What `load_pretrained` may be given besides, as `extras`: whole weights live in memory that host code may touch.
struct pretrained_extras {
  host_memory_argument memory{};
  observer_ref observer{};
  stop_ref stop{};
};

}  // namespace fsdpinit
