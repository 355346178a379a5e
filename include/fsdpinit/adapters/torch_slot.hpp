#pragma once

#include <fsdpinit/adapters/torch_first.hpp>
#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/index/mesh.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <ATen/Functions.h>
#include <ATen/core/Tensor.h>

namespace fsdpinit {

namespace detail {

/// What a storage of libtorch holds on to where its bytes belong to a slab.
inline void release_slab(void* context) noexcept { delete static_cast<std::shared_ptr<std::byte>*>(context); }

/// A tensor that has all but its bytes, so that to give it some takes no memory.
struct blank_tensor {
  blank_tensor(const std::vector<std::int64_t>& sizes, const at::TensorOptions& options)
      // `target_device` keeps libtorch from asking a driver whose memory it is.
      : tensor(at::for_blob(nullptr, sizes).target_device(options.device()).options(options).make_tensor()),
        owner(std::make_unique<std::shared_ptr<std::byte>>()) {}

  /// Over bytes of a slab, which it keeps alive.
  [[nodiscard]] at::Tensor over(std::shared_ptr<std::byte>&& bytes) && {
    *owner = std::move(bytes);
    void* const address = owner->get();
    tensor.storage().set_data_ptr_noswap({address, owner.release(), &release_slab, tensor.device()});
    return std::move(tensor);
  }
  /// The same bytes as another one of the same sizes, in the same storage.
  [[nodiscard]] at::Tensor sharing(const at::Tensor& other) && {
    tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(other.storage());
    tensor.unsafeGetTensorImpl()->set_storage_offset(other.storage_offset());
    return std::move(tensor);
  }

  at::Tensor tensor;
  std::unique_ptr<std::shared_ptr<std::byte>> owner;
};

/// Where the bytes of a tensor begin, also of an empty shard, for which `Tensor::data_ptr` has no address.
[[nodiscard]] inline std::byte* address_of(const at::Tensor& tensor) {
  auto* const begin = static_cast<std::byte*>(tensor.storage().data_ptr().get());
  return begin == nullptr ? nullptr : begin + static_cast<std::size_t>(tensor.storage_offset()) * tensor.itemsize();
}

/// The bytes of a tensor, and what keeps them alive: their slab, or the storage that libtorch made.
[[nodiscard]] inline std::shared_ptr<std::byte> bytes_of(const at::Tensor& tensor) {
  const c10::Storage& storage = tensor.storage();
  if (const auto* const slab = storage.data_ptr().cast_context<std::shared_ptr<std::byte>>(&release_slab)) {
    return {*slab, address_of(tensor)};  // not the storage: it would hold one more with each exchange
  }
  return {address_of(tensor), [keep = storage](std::byte* /*bytes*/) {}};
}

}  // namespace detail

/// A parameter or buffer of a `torch::nn::Module`. What it drops and adopts is exchanged inside the TensorImpl, so that the module's
/// members, its dictionaries, copies of the tensor and optimizers all see it.
///
/// `torch::Tensor::set_data` does that for tensors of one kind, but refuses meta; this takes the step below it,
/// `TensorImpl::shallow_copy_from`, which is its last line (variable.cpp, VariableHooks::set_data). What set_data does besides, to
/// forget a gradient accumulator, is not needed: `torch_module` refuses tensors that a live graph refers to.
class torch_slot {
 public:
  /// \param how     ignored for buffers
  /// \param device  where its shards will live; the tensor is there, or on meta
  torch_slot(at::Tensor tensor, slot_role role, fsdpinit::dtype type, fsdpinit::placement how, c10::Device device)
      : tensor_(std::move(tensor)), role_(role), dtype_(type), placement_(how), device_(device) {
    std::vector<std::uint64_t> dims;
    for (const std::int64_t size : tensor_.sizes()) {
      dims.push_back(static_cast<std::uint64_t>(size));
    }
    shape_ = fsdpinit::shape(dims);
  }
  torch_slot(const torch_slot&) = delete;
  torch_slot& operator=(const torch_slot&) = delete;

  /// The module's own, on meta or holding this rank's part.
  [[nodiscard]] const at::Tensor& tensor() const noexcept { return tensor_; }
  [[nodiscard]] slot_role role() const noexcept { return role_; }
  [[nodiscard]] fsdpinit::dtype dtype() const noexcept { return dtype_; }
  /// Global.
  [[nodiscard]] const fsdpinit::shape& shape() const noexcept { return shape_; }
  [[nodiscard]] fsdpinit::placement placement() const noexcept { return placement_; }
  [[nodiscard]] bool is_meta() const noexcept { return tensor_.is_meta(); }
  /// nullptr on meta.
  [[nodiscard]] const std::byte* data() const { return is_meta() ? nullptr : detail::address_of(tensor_); }
  [[nodiscard]] std::uint64_t bytes() const { return is_meta() ? 0 : tensor_.nbytes(); }
  [[nodiscard]] local_shard local() const {
    if (is_meta()) {
      return {};
    }
    std::vector<std::uint64_t> dims(tensor_.sizes().begin(), tensor_.sizes().end());
    return {.shape = fsdpinit::shape(dims),
            .offset = offset_,
            .bytes = bytes(),
            .data = detail::bytes_of(tensor_),
            .reserved = reserved_ < bytes() ? bytes() : reserved_,
            .slab = slab_};
  }

  /// Another TensorImpl of the same storage, which is to stay so: the second form of a tie in libtorch.
  void share_storage_with(torch_slot& other) { mates_.push_back(&other); }

  /// What libtorch allocates for the metadata of tensors, a few hundred bytes each.
  void prepare(std::span<const local_shard> next) {
    meta_ = blank_meta();
    blanks_.clear();
    for (const local_shard& part : next) {
      blanks_.push_back(blank(part.shape));
    }
  }
  // A slot that was not prepared ends the process where the heap is exhausted, as a handle would in any operation of libtorch.
  void drop() noexcept {
    if (is_meta()) {
      forget_gradient();  // there is nothing else
    } else {
      replace(meta_.defined() ? std::exchange(meta_, {}) : blank_meta());
    }
  }
  void adopt(local_shard&& part) noexcept {
    offset_ = part.offset;
    reserved_ = part.reserved;
    slab_ = part.slab;
    detail::blank_tensor content = next_blank(part.shape);
    for (const torch_slot* mate : mates_) {
      if (part.bytes != 0 && mate->data() == part.data.get() && mate->bytes() == part.bytes) {
        replace(std::move(content).sharing(mate->tensor_));
        return;
      }
    }
    replace(std::move(content).over(std::move(part.data)));
  }

 private:
  [[nodiscard]] static std::vector<std::int64_t> sizes(const fsdpinit::shape& extents) {
    return {extents.begin(), extents.end()};
  }
  [[nodiscard]] at::Tensor blank_meta() const {
    return at::empty(sizes(shape_), tensor_.options().device(c10::kMeta).requires_grad(false));
  }
  [[nodiscard]] detail::blank_tensor blank(const fsdpinit::shape& extents) const {
    return {sizes(extents), tensor_.options().device(device_).requires_grad(false)};
  }
  /// The one that was prepared for a part of this shape, if its turn has come.
  [[nodiscard]] detail::blank_tensor next_blank(const fsdpinit::shape& extents) {
    const bool is_prepared =
        !blanks_.empty() &&
        std::equal(blanks_.front().tensor.sizes().begin(), blanks_.front().tensor.sizes().end(), extents.begin(),
                   extents.end(), [](std::int64_t a, std::uint64_t b) { return static_cast<std::uint64_t>(a) == b; });
    if (!is_prepared) {
      return blank(extents);
    }
    detail::blank_tensor first = std::move(blanks_.front());
    blanks_.erase(blanks_.begin());
    return first;
  }
  void forget_gradient() {
    if (tensor_.grad().defined()) {
      tensor_.mutable_grad().reset();  // of another shape
    }
  }
  void replace(const at::Tensor& content) {
    forget_gradient();
    tensor_.unsafeGetTensorImpl()->shallow_copy_from(content.getIntrusivePtr());
  }

  at::Tensor tensor_;
  slot_role role_;
  fsdpinit::dtype dtype_;
  fsdpinit::placement placement_;
  fsdpinit::shape shape_;
  c10::Device device_;
  std::uint64_t offset_ = 0;
  std::uint64_t reserved_ = 0;
  mutable_bytes slab_{};
  std::vector<const torch_slot*> mates_{};
  at::Tensor meta_{};                           // prepared: what the next drop puts there
  std::vector<detail::blank_tensor> blanks_{};  // prepared: what the next parts are adopted by
};

template <>
struct slot_traits<torch_slot> {
  static slot_role role(const torch_slot& slot) noexcept { return slot.role(); }
  static fsdpinit::dtype dtype(const torch_slot& slot) noexcept { return slot.dtype(); }
  static const fsdpinit::shape& shape(const torch_slot& slot) noexcept { return slot.shape(); }
  static fsdpinit::placement placement(const torch_slot& slot) noexcept { return slot.placement(); }
  static const std::byte* data(const torch_slot& slot) { return slot.data(); }
  static std::uint64_t stored_bytes(const torch_slot& slot) { return slot.bytes(); }
  static void prepare(torch_slot& slot, std::span<const local_shard> next) { slot.prepare(next); }
  static void drop(torch_slot& slot) noexcept { slot.drop(); }
  static void adopt(torch_slot& slot, local_shard&& part) noexcept { slot.adopt(std::move(part)); }
  static bool requires_grad(const torch_slot& slot) { return slot.tensor().requires_grad(); }
  static local_shard local(const torch_slot& slot) { return slot.local(); }
};

}  // namespace fsdpinit
