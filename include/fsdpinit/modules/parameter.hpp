#pragma once

#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/index/mesh.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

namespace fsdpinit {

/// A parameter, ready made: global shape and dtype, and either nothing (meta) or a local shard.
class parameter {
 public:
  parameter() = default;
  /// On meta.
  explicit parameter(fsdpinit::dtype type, fsdpinit::shape extents, fsdpinit::placement how = shard{0}) noexcept
      : dtype_(type), shape_(std::move(extents)), placement_(how) {}

  [[nodiscard]] fsdpinit::dtype dtype() const noexcept { return dtype_; }
  /// Global.
  [[nodiscard]] const fsdpinit::shape& shape() const noexcept { return shape_; }
  [[nodiscard]] fsdpinit::placement placement() const noexcept { return placement_; }
  /// No storage: before the initialisation, or after one that failed. An empty shard is not meta.
  [[nodiscard]] bool is_meta() const noexcept { return !local_.has_value(); }
  /// This rank's part. \pre !is_meta().
  [[nodiscard]] const local_shard& local() const noexcept { return *local_; }
  /// First byte of this rank's part, in the module's memory space; nullptr on meta.
  [[nodiscard]] std::byte* data() const noexcept { return local_ ? local_->data.get() : nullptr; }
  /// Is it trained? Frozen parameters have no gradient, and may differ in dtype from the others of their unit.
  [[nodiscard]] bool requires_grad() const noexcept { return requires_grad_; }
  void set_requires_grad(bool trained) noexcept { requires_grad_ = trained; }

  void drop() noexcept { local_.reset(); }
  void adopt(local_shard&& part) noexcept { local_ = std::move(part); }

 private:
  fsdpinit::dtype dtype_ = fsdpinit::dtype::f32;
  fsdpinit::shape shape_;
  fsdpinit::placement placement_;
  bool requires_grad_ = true;
  std::optional<local_shard> local_;
};

/// A buffer: whole on every rank. A persistent one is in the checkpoint; the others (rotary caches, masks) get the
/// source rank's values.
class buffer {
 public:
  buffer() = default;
  /// On meta.
  explicit buffer(fsdpinit::dtype type, fsdpinit::shape extents, bool persistent = true) noexcept
      : dtype_(type), shape_(std::move(extents)), persistent_(persistent) {}

  [[nodiscard]] fsdpinit::dtype dtype() const noexcept { return dtype_; }
  [[nodiscard]] const fsdpinit::shape& shape() const noexcept { return shape_; }
  [[nodiscard]] bool persistent() const noexcept { return persistent_; }
  [[nodiscard]] bool is_meta() const noexcept { return !local_.has_value(); }
  [[nodiscard]] const local_shard& local() const noexcept { return *local_; }
  [[nodiscard]] std::byte* data() const noexcept { return local_ ? local_->data.get() : nullptr; }

  /// Gives it values in storage of its own, in host memory: for modules whose memory space is host memory. On others `adopt`
  /// storage of that space. `values` is the whole tensor, row-major.
  /// \throws error{shape_mismatch} if the byte counts differ.
  void set(bytes_view values) {
    const std::uint64_t expected = byte_size("buffer", dtype_, shape_);
    if (values.size() != expected) {
      throw error(errc::shape_mismatch, "buffer",
                  concat(to_string(shape_), " ", name(dtype_), " needs ", expected, " bytes, got ", values.size()));
    }
    const std::shared_ptr<std::byte[]> owner(new std::byte[values.size()]);
    if (!values.empty()) {
      std::memcpy(owner.get(), values.data(), values.size());
    }
    local_ = local_shard{.shape = shape_,
                         .bytes = values.size(),
                         .data = {owner, owner.get()},
                         .reserved = values.size(),
                         .slab = {owner.get(), values.size()}};
  }

  void drop() noexcept { local_.reset(); }
  void adopt(local_shard&& whole) noexcept { local_ = std::move(whole); }

 private:
  fsdpinit::dtype dtype_ = fsdpinit::dtype::f32;
  fsdpinit::shape shape_;
  bool persistent_ = true;
  std::optional<local_shard> local_;
};

template <>
struct slot_traits<parameter> {
  static slot_role role(const parameter& /*slot*/) noexcept { return slot_role::parameter; }
  static fsdpinit::dtype dtype(const parameter& slot) noexcept { return slot.dtype(); }
  static const fsdpinit::shape& shape(const parameter& slot) noexcept { return slot.shape(); }
  static fsdpinit::placement placement(const parameter& slot) noexcept { return slot.placement(); }
  static const std::byte* data(const parameter& slot) noexcept { return slot.data(); }
  static std::uint64_t stored_bytes(const parameter& slot) noexcept { return slot.is_meta() ? 0 : slot.local().bytes; }
  static void drop(parameter& slot) noexcept { slot.drop(); }
  static void adopt(parameter& slot, local_shard&& part) noexcept { slot.adopt(std::move(part)); }
  static bool requires_grad(const parameter& slot) noexcept { return slot.requires_grad(); }
  static local_shard local(const parameter& slot) { return slot.is_meta() ? local_shard{} : slot.local(); }
};

template <>
struct slot_traits<buffer> {
  static slot_role role(const buffer& slot) noexcept {
    return slot.persistent() ? slot_role::persistent_buffer : slot_role::non_persistent_buffer;
  }
  static fsdpinit::dtype dtype(const buffer& slot) noexcept { return slot.dtype(); }
  static const fsdpinit::shape& shape(const buffer& slot) noexcept { return slot.shape(); }
  static fsdpinit::placement placement(const buffer& /*slot*/) noexcept { return replicate{}; }
  static const std::byte* data(const buffer& slot) noexcept { return slot.data(); }
  static std::uint64_t stored_bytes(const buffer& slot) noexcept { return slot.is_meta() ? 0 : slot.local().bytes; }
  static void drop(buffer& slot) noexcept { slot.drop(); }
  static void adopt(buffer& slot, local_shard&& whole) noexcept { slot.adopt(std::move(whole)); }
  static local_shard local(const buffer& slot) { return slot.is_meta() ? local_shard{} : slot.local(); }
};

}  // namespace fsdpinit
