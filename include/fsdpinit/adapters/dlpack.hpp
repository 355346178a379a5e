#pragma once

#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>

#include <gsl/assert>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// DLPack, by which frameworks hand each other tensors (dlpack.h, versions 0.6 to 1.1). That header is not included here: each
/// framework brings its own, and whatever has its members will do.

namespace fsdpinit {

/// `DLManagedTensor`, `DLManagedTensorVersioned`: a DLTensor, a context, and what ends its life.
template <class M>
concept DlpackManagedTensor = requires(M& managed) {
  { managed.dl_tensor.data } -> std::convertible_to<void*>;
  { managed.dl_tensor.device.device_id } -> std::convertible_to<std::int64_t>;
  managed.dl_tensor.device.device_type;
  { managed.dl_tensor.ndim } -> std::convertible_to<std::int64_t>;
  { managed.dl_tensor.dtype.code } -> std::convertible_to<std::uint8_t>;
  { managed.dl_tensor.dtype.bits } -> std::convertible_to<std::uint8_t>;
  { managed.dl_tensor.dtype.lanes } -> std::convertible_to<std::uint16_t>;
  { managed.dl_tensor.shape } -> std::convertible_to<const std::int64_t*>;
  { managed.dl_tensor.strides } -> std::convertible_to<const std::int64_t*>;
  { managed.dl_tensor.byte_offset } -> std::convertible_to<std::uint64_t>;
  { managed.manager_ctx } -> std::convertible_to<void*>;
  managed.deleter(&managed);
};

namespace detail {

struct dlpack_dtype_row {
  dtype type;
  std::uint8_t code;  // DLDataTypeCode
  std::uint8_t bits;
};

/// f4 is two of DLPack's elements to a byte there and here; f6 is padded there, and left out.
inline constexpr std::array<dlpack_dtype_row, 20> dlpack_dtype_rows{{
    {dtype::i8, 0, 8},       {dtype::i16, 0, 16},         {dtype::i32, 0, 32},     {dtype::i64, 0, 64},
    {dtype::u8, 1, 8},       {dtype::u16, 1, 16},         {dtype::u32, 1, 32},     {dtype::u64, 1, 64},
    {dtype::f16, 2, 16},     {dtype::f32, 2, 32},         {dtype::f64, 2, 64},     {dtype::bf16, 4, 16},
    {dtype::c64, 5, 64},     {dtype::boolean, 6, 8},      {dtype::f8_e4m3, 10, 8}, {dtype::f8_e4m3fnuz, 11, 8},
    {dtype::f8_e5m2, 12, 8}, {dtype::f8_e5m2fnuz, 13, 8}, {dtype::f8_e8m0, 14, 8}, {dtype::f4, 17, 4},
}};

inline constexpr int dlpack_cpu = 1;             // kDLCPU
inline constexpr int dlpack_pinned_by_cuda = 3;  // kDLCUDAHost: host memory too

}  // namespace detail

/// The dtype of a DLDataType; nothing for those that checkpoints do not know, and for vectors (lanes).
template <class DataType>
[[nodiscard]] std::optional<dtype> dtype_of_dlpack(const DataType& type) noexcept {
  for (const detail::dlpack_dtype_row& row : detail::dlpack_dtype_rows) {
    if (row.code == type.code && row.bits == type.bits && type.lanes == 1) {
      return row.type;
    }
  }
  return std::nullopt;
}

/// What a state dict says of a DLTensor under a name. \throws error naming it: dtype_mismatch for a dtype that checkpoints do not know;
/// invalid_argument for one that is not row-major without gaps, or not in host memory.
template <class Tensor>
[[nodiscard]] tensor_descriptor describe_dlpack(std::string name, const Tensor& tensor) {
  const std::optional<dtype> type = dtype_of_dlpack(tensor.dtype);
  if (!type) {
    throw error(errc::dtype_mismatch, name,
                concat("checkpoints have no dtype for DLPack's code ", static_cast<unsigned>(tensor.dtype.code), " of ",
                       static_cast<unsigned>(tensor.dtype.bits), " bits and ", tensor.dtype.lanes,
                       " lanes; convert it before it is handed over"));
  }
  const auto device = static_cast<int>(tensor.device.device_type);
  if (device != detail::dlpack_cpu && device != detail::dlpack_pinned_by_cuda) {
    throw error(
        errc::invalid_argument, name,
        concat("it is on a device of DLPack's type ", device, "; a source is read in host memory: copy it there"));
  }
  std::vector<std::uint64_t> dims;
  std::int64_t stride = 1;
  bool dense = true;
  bool empty = false;
  for (std::int64_t dim = tensor.ndim - 1; dim >= 0; --dim) {
    empty = empty || tensor.shape[dim] == 0;
    dense = dense && (tensor.strides == nullptr || tensor.shape[dim] == 1 || tensor.strides[dim] == stride);
    stride *= tensor.shape[dim];
  }
  for (std::int64_t dim = 0; dim < tensor.ndim; ++dim) {
    dims.push_back(static_cast<std::uint64_t>(tensor.shape[dim]));
  }
  if (!dense && !empty) {
    throw error(errc::invalid_argument, name, "it is not row-major without gaps; hand over a contiguous tensor");
  }
  return {.name = std::move(name), .dtype = *type, .shape = shape(dims)};
}

/// A tensor that another framework has handed over, and its name. Owned: its deleter is called once.
template <DlpackManagedTensor Managed>
struct dlpack_tensor {
  struct end_of_life {
    void operator()(Managed* handed_over) const noexcept {
      if (handed_over->deleter != nullptr) {
        handed_over->deleter(handed_over);
      }
    }
  };
  std::string name;
  std::unique_ptr<Managed, end_of_life> managed;

  dlpack_tensor(std::string fqn, Managed* owned) noexcept : name(std::move(fqn)), managed(owned) {}
};

/// Tensors of another framework as a state dict, in the order in which they are given. A ReleasingSource: each goes back to its framework
/// once its last byte has left, if the initialisation is told to release its source.
template <DlpackManagedTensor Managed>
class dlpack_source {
 public:
  static constexpr bool reads_concurrently = true;

  /// \throws as `describe_dlpack`.
  explicit dlpack_source(std::vector<dlpack_tensor<Managed>> tensors) : tensors_(std::move(tensors)) {
    descriptors_.reserve(tensors_.size());
    for (const dlpack_tensor<Managed>& each : tensors_) {
      descriptors_.push_back(describe_dlpack(each.name, each.managed->dl_tensor));
    }
  }

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const noexcept { return descriptors_; }

  /// \pre `tensor` is an index into `tensors()` that was not released, and the range lies inside it.
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) const {
    Expects(tensor < tensors_.size() && tensors_[tensor].managed != nullptr);
    if (!destination.empty()) {
      const auto& from = tensors_[tensor].managed->dl_tensor;
      std::memcpy(destination.data(), static_cast<const std::byte*>(from.data) + from.byte_offset + offset,
                  destination.size());
    }
  }
  void release(std::size_t tensor) noexcept { tensors_[tensor].managed.reset(); }

 private:
  std::vector<dlpack_tensor<Managed>> tensors_;
  std::vector<tensor_descriptor> descriptors_;
};

/// A rank's part of a tensor for another framework, which shares its storage and calls the deleter when it is done with it.
/// \param device_type, device_id  where the shard is, as DLPack has it: {1, 0} for host memory, {2, i} for GPU i.
/// \throws error{dtype_mismatch} for a dtype that DLPack has no code for; std::bad_alloc.
template <DlpackManagedTensor Managed>
[[nodiscard]] Managed* export_dlpack(const local_shard& part, dtype type, int device_type = detail::dlpack_cpu,
                                     int device_id = 0) {
  struct holder {
    std::shared_ptr<std::byte> data;
    std::vector<std::int64_t> shape;
    Managed managed{};
  };
  const detail::dlpack_dtype_row* found = nullptr;
  for (const detail::dlpack_dtype_row& row : detail::dlpack_dtype_rows) {
    found = row.type == type ? &row : found;
  }
  if (found == nullptr) {
    throw error(errc::dtype_mismatch, "", concat("DLPack has no code for ", name(type), "; hand over its bytes as U8"));
  }
  auto made = std::make_unique<holder>();
  made->data = part.data;
  made->shape.assign(part.shape.begin(), part.shape.end());
  auto& tensor = made->managed.dl_tensor;
  tensor.data = part.data.get();
  tensor.device.device_type = static_cast<decltype(tensor.device.device_type)>(device_type);
  tensor.device.device_id = device_id;
  tensor.ndim = static_cast<decltype(tensor.ndim)>(made->shape.size());
  tensor.dtype = {.code = found->code, .bits = found->bits, .lanes = 1};
  tensor.shape = made->shape.data();
  tensor.strides = nullptr;
  tensor.byte_offset = 0;
  made->managed.manager_ctx = made.get();
  made->managed.deleter = [](Managed* self) { delete static_cast<holder*>(self->manager_ctx); };
  return &made.release()->managed;
}

}  // namespace fsdpinit
