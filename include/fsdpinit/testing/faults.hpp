#pragma once

#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/testing/call_counter.hpp>
#include <fsdpinit/testing/faulty_communicator.hpp>

#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// Decorators at the seams of the concepts that fail one call of one rank. Count the calls of a clean run, then fail
/// call k for every k: whatever happens, all ranks must end with the same error.

namespace fsdpinit::testing {

/// A state dict of which one read throws error{io} that names the tensor, or for reads of files nothing.
template <StateDictSource S>
class faulty_source {
 public:
  static constexpr bool reads_concurrently = ConcurrentSource<S>;

  faulty_source(S inner, call_counter counter) : inner_(std::move(inner)), counter_(std::move(counter)) {}

  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return inner_.tensors(); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    check("read", tensors()[tensor].name);
    inner_.read(tensor, offset, destination);
  }

  [[nodiscard]] std::string_view stored_name(std::size_t tensor) const
    requires RenamingSource<S>
  {
    return inner_.stored_name(tensor);
  }
  [[nodiscard]] std::span<const unlisted_tensor> unlisted() const
    requires IndexedSource<S>
  {
    return inner_.unlisted();
  }
  [[nodiscard]] fsdpinit::dtype stored_dtype(std::size_t tensor) const
    requires CastingSource<S>
  {
    return inner_.stored_dtype(tensor);
  }
  void read_stored(std::size_t tensor, std::uint64_t offset, mutable_bytes destination)
    requires CastingSource<S>
  {
    check("read_stored", tensors()[tensor].name);
    inner_.read_stored(tensor, offset, destination);
  }
  [[nodiscard]] std::uint64_t overflows(std::size_t tensor) const
    requires OverflowCountingSource<S>
  {
    return inner_.overflows(tensor);
  }
  [[nodiscard]] std::size_t file_count() const
    requires PositionedSource<S>
  {
    return inner_.file_count();
  }
  [[nodiscard]] auto position_of(std::size_t tensor) const
    requires PositionedSource<S>
  {
    return inner_.position_of(tensor);
  }
  void read_file(std::size_t file, std::uint64_t offset, mutable_bytes destination)
    requires PositionedSource<S>
  {
    check("read_file", "");
    inner_.read_file(file, offset, destination);
  }
  void read_file_into(std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> destinations)
    requires VectoredSource<S>
  {
    check("read_file_into", "");
    inner_.read_file_into(file, offset, destinations);
  }
  [[nodiscard]] std::vector<file_fingerprint> file_fingerprints() const
    requires FingerprintedSource<S>
  {
    return inner_.file_fingerprints();
  }
  [[nodiscard]] std::optional<std::size_t> file_of(std::size_t tensor) const
    requires FingerprintedSource<S>
  {
    return inner_.file_of(tensor);
  }

 private:
  void check(std::string_view what, std::string_view subject) const {
    if (counter_.fails_now()) {
      throw error(errc::io, subject, concat("injected into ", what), {.native_code = 5});
    }
  }

  S inner_;
  call_counter counter_;
};

/// A memory space of which one call fails: std::bad_alloc from `allocate`, std::runtime_error from a copy. A `wait`
/// fails after the copies are done. Copies of the handle share the count.
template <MemorySpace S>
class faulty_memory {
 public:
  using queue = typename S::queue;
  static constexpr bool host_accessible = S::host_accessible;

  faulty_memory() = default;
  faulty_memory(S inner, call_counter counter) : inner_(std::move(inner)), counter_(std::move(counter)) {}

  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) {
    if (counter_.fails_now()) {
      throw std::bad_alloc();
    }
    return inner_.allocate(bytes);
  }
  void deallocate(std::byte* address, std::uint64_t bytes) noexcept { inner_.deallocate(address, bytes); }
  void copy_in(std::byte* destination, const std::byte* source, std::uint64_t stride, std::uint64_t run,
               std::uint64_t count, queue& order) {
    check("injected into copy_in");
    inner_.copy_in(destination, source, stride, run, count, order);
  }
  void copy_out(std::byte* destination, const std::byte* source, std::uint64_t bytes, queue& order) {
    check("injected into copy_out");
    inner_.copy_out(destination, source, bytes, order);
  }
  void copy_within(std::byte* destination, std::uint64_t destination_stride, const std::byte* source,
                   std::uint64_t source_stride, std::uint64_t run, std::uint64_t count, queue& order)
    requires LocallyCopyingMemory<S>
  {
    check("injected into copy_within");
    inner_.copy_within(destination, destination_stride, source, source_stride, run, count, order);
  }
  void zero(std::byte* destination, std::uint64_t bytes, queue& order)
    requires LocallyCopyingMemory<S>
  {
    check("injected into zero");
    inner_.zero(destination, bytes, order);
  }
  void wait(queue& order) {
    inner_.wait(order);
    check("injected into wait");
  }
  [[nodiscard]] std::uint64_t accounted() const noexcept { return inner_.accounted(); }
  [[nodiscard]] std::uint64_t accounted_peak() const noexcept { return inner_.accounted_peak(); }
  void restart_peak() noexcept { inner_.restart_peak(); }

 private:
  void check(const char* what) const {
    if (counter_.fails_now()) {
      throw std::runtime_error(what);
    }
  }

  S inner_;
  call_counter counter_;
};

/// A module of which one visit throws std::runtime_error in place of showing a slot. Call 0 is the walk as a whole,
/// before its first slot.
template <ShardableModule M>
class faulty_module {
 public:
  faulty_module(M& inner, call_counter counter) : inner_(inner), counter_(std::move(counter)) {}

  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    check("");
    module_traits<M>::visit_slots(inner_, [&](std::string_view fqn, auto& slot) {
      check(fqn);
      visitor(fqn, slot);
    });
  }
  [[nodiscard]] std::vector<std::vector<std::string>> tie_groups() const {
    check("");
    return fsdpinit::tie_groups(inner_);
  }
  [[nodiscard]] bool is_unit(std::string_view path) const
    requires NamesUnits<M>
  {
    check(path);
    return fsdpinit::is_unit(inner_, path);
  }

 private:
  void check(std::string_view fqn) const {
    if (counter_.fails_now()) {
      throw std::runtime_error(concat("injected into the visit of '", fqn, "'"));
    }
  }

  M& inner_;
  call_counter counter_;
};

/// An optimizer of which one question throws std::runtime_error. What must not fail is not counted.
template <ShardableOptimizer O>
class faulty_optimizer {
 public:
  faulty_optimizer(O& inner, call_counter counter) : inner_(inner), counter_(std::move(counter)) {}

  [[nodiscard]] std::vector<std::vector<std::string>> parameter_groups() const {
    check("injected into parameter_groups");
    return std::as_const(inner_).parameter_groups();
  }
  [[nodiscard]] bool has_state() const {
    check("injected into has_state");
    return std::as_const(inner_).has_state();
  }
  void drop_references() noexcept { inner_.drop_references(); }
  template <ParameterSlot Slot>
  void rebind(std::size_t group, std::string_view fqn, Slot& slot) noexcept
    requires RebindsTo<O, Slot>
  {
    inner_.rebind(group, fqn, slot);
  }

 private:
  void check(const char* what) const {
    if (counter_.fails_now()) {
      throw std::runtime_error(what);
    }
  }

  O& inner_;
  call_counter counter_;
};

/// An observer of which one call throws std::runtime_error.
class faulty_observer {
 public:
  explicit faulty_observer(call_counter counter) : counter_(std::move(counter)) {}
  void phase(const char* name) const { check(name); }
  void progress(std::uint64_t /*done*/, std::uint64_t /*total*/) const { check("progress"); }

 private:
  void check(std::string_view what) const {
    if (counter_.fails_now()) {
      throw std::runtime_error(concat("injected into ", what));
    }
  }
  call_counter counter_;
};

}  // namespace fsdpinit::testing
