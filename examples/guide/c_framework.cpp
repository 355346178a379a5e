// Plugs a framework in that is written in C: tensors are structs, memory is freed by a callback, and ranks are an MPI_Comm.
//
//   mpiexec -n 4 c_framework
#include "c_framework.h"
#include <fsdpinit/communicators/mpi.hpp>
#include <fsdpinit/fsdpinit.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mpi.h>

// [slot]
/// A tensor of the C framework, with what that does not know: the shape of the whole, and who owns the memory.
class c_slot {
 public:
  c_slot(cf_tensor& tensor, fsdpinit::shape whole)
      : tensor_(&tensor), whole_(std::move(whole)), owner_(std::make_unique<owner>()) {}

  [[nodiscard]] std::string_view name() const { return tensor_->name; }
  [[nodiscard]] const fsdpinit::shape& whole() const { return whole_; }
  [[nodiscard]] const std::byte* data() const { return static_cast<const std::byte*>(tensor_->data); }

  void drop() noexcept {
    cf_tensor_free(tensor_);
    tensor_->rows = 0;
  }
  /// Its owner was allocated beforehand, as nothing may fail here. The tensor keeps it, and frees it.
  void adopt(fsdpinit::local_shard&& part) noexcept {
    tensor_->rows = part.shape[0];
    tensor_->data = part.data.get();
    *owner_ = std::move(part.data);
    tensor_->owner = owner_.release();
    tensor_->release = [](void* kept) { delete static_cast<owner*>(kept); };
  }
  void prepare(std::span<const fsdpinit::local_shard> /*next*/) {
    if (owner_ == nullptr) {
      owner_ = std::make_unique<owner>();
    }
  }

 private:
  using owner = std::shared_ptr<std::byte>;  // shares the memory with the other tensors of a unit
  cf_tensor* tensor_;
  fsdpinit::shape whole_;
  std::unique_ptr<owner> owner_;  // for the next `adopt`
};

template <>
struct fsdpinit::slot_traits<c_slot> {
  static slot_role role(const c_slot&) { return slot_role::parameter; }
  static fsdpinit::dtype dtype(const c_slot&) { return fsdpinit::dtype::f32; }
  static const fsdpinit::shape& shape(const c_slot& slot) { return slot.whole(); }
  static fsdpinit::placement placement(const c_slot&) { return shard{0}; }
  static const std::byte* data(const c_slot& slot) { return slot.data(); }
  static void prepare(c_slot& slot, std::span<const local_shard> next) { slot.prepare(next); }
  static void drop(c_slot& slot) noexcept { slot.drop(); }
  static void adopt(c_slot& slot, local_shard&& part) noexcept { slot.adopt(std::move(part)); }
};
// [slot]

// [module]
/// A model of the C framework while it is initialised. `whole_rows` are those of its whole tensors, in their order.
struct c_module {
  std::vector<c_slot> slots;

  c_module(const cf_model& model, const std::uint64_t* whole_rows) {
    for (std::size_t i = 0; i < model.count; ++i) {
      slots.emplace_back(model.tensors[i], fsdpinit::shape{whole_rows[i], model.tensors[i].columns});
    }
  }
  void visit_slots(auto&& visitor) {
    for (c_slot& each : slots) {
      visitor(each.name(), each);
    }
  }
};
// [module]

// [memory]
/// The C framework's allocator. What only its copies may touch is a type of its own.
template <cf_place Place>
class c_memory {
 public:
  struct queue {};  // copies are done when they return
  static constexpr bool host_accessible = Place == CF_HOST;

  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) {
    void* const address = cf_alloc(Place, bytes);
    if (address == nullptr) {
      throw std::bad_alloc();
    }
    account_->add(bytes);
    return static_cast<std::byte*>(address);
  }
  void deallocate(std::byte* address, std::uint64_t bytes) noexcept {
    cf_free(Place, address);
    account_->remove(bytes);
  }
  void copy_in(std::byte* to, const std::byte* from, std::uint64_t stride, std::uint64_t run, std::uint64_t count,
               queue& /*order*/) {
    for (std::uint64_t i = 0; i < count; ++i) {
      cf_copy(to + i * run, from + i * stride, run);
    }
  }
  void copy_out(std::byte* to, const std::byte* from, std::uint64_t bytes, queue& /*order*/) {
    cf_copy(to, from, bytes);
  }
  void wait(queue& /*order*/) {}

  [[nodiscard]] std::uint64_t accounted() const noexcept { return account_->current(); }
  [[nodiscard]] std::uint64_t accounted_peak() const noexcept { return account_->peak(); }
  void restart_peak() noexcept { account_->restart_peak(); }

 private:
  std::shared_ptr<fsdpinit::account> account_ = std::make_shared<fsdpinit::account>();
};
// [memory]

// [bring-up]
/// Collective over `model.comm`. Afterwards the model's tensors own their parts, and nothing of fsdpinit has to be kept.
void bring_up(const cf_model& model, const std::uint64_t* whole_rows, auto checkpoint) {
  c_module module(model, whole_rows);
  fsdpinit::mpi_communicator ranks(model.comm);  // works on a duplicate, which ends with it
  const fsdpinit::options how{.bucket_bytes = 16 * fsdpinit::kib};
  const bool is_host = model.place == CF_HOST;
  fsdpinit::initialize(module, checkpoint, ranks, how,
                       {.memory = is_host ? fsdpinit::memory_argument(c_memory<CF_HOST>())
                                          : fsdpinit::memory_argument(c_memory<CF_DEVICE>())});
}

/// What C calls: NULL, or what went wrong, the same on every process. `weights` are the whole tensors, one after the other, on
/// process 0 of `model->comm`; others do not look at them.
extern "C" const char* cf_bring_up(const cf_model* model, const uint64_t* whole_rows, const float* weights) noexcept {
  static thread_local std::string failure;
  const auto checkpoint = [&] {  // or fsdpinit::checkpoint{"path/to/model"}
    std::vector<fsdpinit::in_memory_tensor> tensors;
    const auto* at = reinterpret_cast<const std::byte*>(weights);
    for (const c_slot& each : c_module(*model, whole_rows).slots) {
      fsdpinit::tensor_descriptor what{
          .name = std::string(each.name()), .dtype = fsdpinit::dtype::f32, .shape = each.whole()};
      const std::uint64_t bytes = byte_size(what);
      tensors.push_back({std::move(what), {at, bytes}});
      at += bytes;
    }
    return fsdpinit::in_memory_source(std::move(tensors));
  };
  try {
    bring_up(*model, whole_rows, checkpoint);
    return nullptr;
  } catch (const std::exception& error) {  // an fsdpinit::error, or std::bad_alloc before ranks could agree on one
    failure = error.what();
    return failure.c_str();
  }
}
// [bring-up]

/// Two models of two processes each: one in host memory, one on a device.
bool run() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::array<cf_tensor, 2> tensors{};
  tensors[0].name = "embed";
  tensors[1].name = "head";
  tensors[0].columns = tensors[1].columns = 64;
  const std::array<std::uint64_t, 2> whole_rows{1000, 101};
  cf_model model{.tensors = tensors.data(),
                 .count = tensors.size(),
                 .place = rank < 2 ? CF_HOST : CF_DEVICE,
                 .comm = MPI_COMM_NULL};
  MPI_Comm_split(MPI_COMM_WORLD, rank / 2, rank, &model.comm);
  std::vector<float> weights(rank % 2 == 0 ? 1101 * 64 : 0);
  std::iota(weights.begin(), weights.end(), 0.0F);
  const char* const failure = cf_bring_up(&model, whole_rows.data(), weights.data());
  MPI_Comm_free(&model.comm);
  if (failure != nullptr) {
    std::fprintf(stderr, "%s\n", failure);
    return false;
  }

  float first = 0;
  cf_copy(&first, tensors[1].data, sizeof first);
  const bool right = tensors[1].rows == (rank % 2 == 0 ? 51 : 50) && cf_blocks == 1 &&
                     first == static_cast<float>((1000 + (rank % 2) * 51) * 64);
  std::printf("rank %d: %s memory, head has %ju rows from %.0f on\n", rank, model.place == CF_HOST ? "host" : "device",
              std::uintmax_t{tensors[1].rows}, static_cast<double>(first));
  std::for_each(tensors.begin(), tensors.end(), [](cf_tensor& each) { cf_tensor_free(&each); });
  return right && cf_blocks == 0;
}

int main(int count, char** arguments) {
  MPI_Init(&count, &arguments);
  const bool right = run();
  MPI_Finalize();
  return right ? 0 : 1;
}
