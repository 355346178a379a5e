#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/wire.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/sources/as_stored.hpp>

#include <gsl/assert>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace fsdpinit {

/// A state dict that lives on the source rank, with its descriptors on every rank: for modules that are built from what
/// the checkpoint says. Elsewhere than on the source rank reading is an error. A CastingSource and a RenamingSource, as what it
/// stands for may be. Positions in files are known on the source rank.
template <StateDictSource S>
class remote_source {
 public:
  static constexpr bool reads_concurrently = ConcurrentSource<S>;

  remote_source(std::optional<S> local, state_dict_contents contents)
      : local_(std::move(local)), contents_(std::move(contents)) {}

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept { return contents_.tensors; }
  [[nodiscard]] std::span<const unlisted_tensor> unlisted() const noexcept { return contents_.unlisted; }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    require_readable(tensor);
    local_->read(tensor, offset, destination);
  }

  [[nodiscard]] dtype stored_dtype(std::size_t tensor) const noexcept { return contents_.stored_dtype(tensor); }
  void read_stored(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    require_readable(tensor);
    detail::read_stored(*local_, tensor, offset, destination);
  }
  [[nodiscard]] std::string_view stored_name(std::size_t tensor) const noexcept {
    return contents_.stored_name(tensor);
  }

  /// 0 on ranks that cannot read it.
  [[nodiscard]] std::uint64_t tile_bytes(std::size_t tensor) const
    requires AssemblingSource<S>
  {
    return local_ ? local_->tile_bytes(tensor) : 0;
  }
  void read_runs(std::size_t tensor, const byte_region& runs, mutable_bytes destination, mutable_bytes tile)
    requires AssemblingSource<S>
  {
    require_readable(tensor);
    local_->read_runs(tensor, runs, destination, tile);
  }

  [[nodiscard]] std::uint64_t overflows(std::size_t tensor) const
    requires OverflowCountingSource<S>
  {
    return local_ ? local_->overflows(tensor) : 0;
  }

  [[nodiscard]] std::size_t file_count() const
    requires PositionedSource<S>
  {
    return local_ ? static_cast<std::size_t>(local_->file_count()) : 0;
  }
  [[nodiscard]] std::optional<file_position> position_of(std::size_t tensor) const
    requires PositionedSource<S>
  {
    return local_ ? std::optional<file_position>(local_->position_of(tensor)) : std::nullopt;
  }
  /// \pre this rank can read it.
  void read_file(std::size_t file, std::uint64_t offset, mutable_bytes destination)
    requires PositionedSource<S>
  {
    Expects(local_.has_value());
    local_->read_file(file, offset, destination);
  }
  void read_file_into(std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> destinations)
    requires VectoredSource<S>
  {
    Expects(local_.has_value());
    local_->read_file_into(file, offset, destinations);
  }

  [[nodiscard]] std::vector<file_fingerprint> file_fingerprints() const
    requires FingerprintedSource<S>
  {
    return local_ ? local_->file_fingerprints() : std::vector<file_fingerprint>();
  }
  [[nodiscard]] std::optional<std::size_t> file_of(std::size_t tensor) const
    requires FingerprintedSource<S>
  {
    return local_ ? local_->file_of(tensor) : std::nullopt;
  }

  /// Can this rank read it?
  [[nodiscard]] bool readable() const noexcept { return local_.has_value(); }
  /// The state dict itself; nothing on ranks other than the source.
  [[nodiscard]] const std::optional<S>& local() const noexcept { return local_; }

 private:
  void require_readable(std::size_t tensor) const {
    if (!local_) {
      throw error(errc::invalid_argument, contents_.tensors[tensor].name,
                  "the state dict is on the source rank only; choose a policy in which that rank alone reads");
    }
  }

  std::optional<S> local_;
  state_dict_contents contents_;
};

/// Opens the state dict on `source_rank` and tells every rank what is in it. Collective over `control`; a file that
/// cannot be opened is the same error on every rank.
template <SourceOpener Opener, Communicator Control>
[[nodiscard]] auto share_descriptors(Opener&& open, Control& control, std::size_t source_rank = 0,
                                     double deadline_seconds = default_deadline_seconds) {
  using source = decltype(open());
  std::optional<source> local;
  std::vector<std::byte> described;
  agreed(control, deadline_seconds, [&] {
    if (control.rank() == source_rank) {
      local.emplace(open());
      described = detail::encode(detail::contents_of(*local));
    }
  });
  described = broadcast_bytes(control, std::move(described), source_rank, deadline::after(deadline_seconds));
  state_dict_contents contents;
  agreed(control, deadline_seconds, [&] { contents = detail::decode_contents(described); });
  return remote_source<source>(std::move(local), std::move(contents));
}

}  // namespace fsdpinit
