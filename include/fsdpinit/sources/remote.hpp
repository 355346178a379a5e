#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/wire.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit {

/// A state dict that lives on the source rank, with its descriptors on every rank: for modules that are built from what
/// the checkpoint says. Elsewhere than on the source rank `read` is an error.
template <StateDictSource S>
class remote_source {
 public:
  remote_source(std::optional<S> local, std::vector<tensor_descriptor> tensors)
      : local_(std::move(local)), tensors_(std::move(tensors)) {}

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept { return tensors_; }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    if (!local_) {
      throw error(errc::invalid_argument, tensors_[tensor].name,
                  "the state dict is on the source rank only; choose a policy in which that rank alone reads");
    }
    local_->read(tensor, offset, destination);
  }
  /// Can this rank read it?
  [[nodiscard]] bool readable() const noexcept { return local_.has_value(); }
  /// The state dict itself; nothing on ranks other than the source.
  [[nodiscard]] const std::optional<S>& local() const noexcept { return local_; }

 private:
  std::optional<S> local_;
  std::vector<tensor_descriptor> tensors_;
};

/// Opens the state dict on `source_rank` and tells every rank what is in it. Collective over `control`; a file that
/// cannot be opened is the same error on every rank.
template <SourceOpener Opener, Communicator Control>
[[nodiscard]] auto share_descriptors(Opener&& open, Control& control, std::size_t source_rank = 0,
                                     double deadline_seconds = 600) {
  using source = decltype(open());
  std::optional<source> local;
  std::vector<std::byte> described;
  agreed(control, deadline_seconds, [&] {
    if (control.rank() == source_rank) {
      local.emplace(open());
      described = detail::encode(local->tensors());
    }
  });
  described = broadcast_bytes(control, std::move(described), source_rank, deadline::after(deadline_seconds));
  std::vector<tensor_descriptor> tensors;
  agreed(control, deadline_seconds, [&] { tensors = detail::decode_descriptors(described); });
  return remote_source<source>(std::move(local), std::move(tensors));
}

}  // namespace fsdpinit
