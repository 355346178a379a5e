#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
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

/// Counts calls and fails one of them. Copies share the count; one per rank and decorated object. A call that fails has
/// not reached the decorated object, unless its decorator says otherwise.
class call_counter {
 public:
  /// From now on counts from 0, and fails none.
  void restart() const noexcept {
    state_->calls = 0;
    state_->failing = none;
  }
  /// From now on counts from 0, and fails call `index`.
  void fail_at(std::uint64_t index) const noexcept {
    state_->calls = 0;
    state_->failing = index;
  }
  [[nodiscard]] std::uint64_t calls() const noexcept { return state_->calls; }
  /// Has the call that was to fail been made?
  [[nodiscard]] bool has_failed() const noexcept { return state_->failing != none && state_->calls > state_->failing; }

  /// Counts one call; true if it is the one to fail.
  [[nodiscard]] bool fails_now() const noexcept { return state_->calls++ == state_->failing; }

 private:
  static constexpr std::uint64_t none = ~std::uint64_t{0};
  struct state {
    std::atomic<std::uint64_t> calls{0};
    std::atomic<std::uint64_t> failing{none};
  };
  std::shared_ptr<state> state_ = std::make_shared<state>();
};

/// A communicator of which one call throws error{communication}. It models what `C` models, no more and no less.
///
/// `wait` fails after the operation is over, because a failed `wait` has given the buffers back; every other call fails
/// before it has begun. `interrupt`, `rearm` and `fail`, which must not fail, are not counted.
template <Communicator C>
class faulty_communicator_base {
 public:
  faulty_communicator_base(C& inner, call_counter counter) : inner_(inner), counter_(std::move(counter)) {}

  [[nodiscard]] std::size_t rank() const { return inner_.rank(); }
  [[nodiscard]] std::size_t size() const { return inner_.size(); }

  [[nodiscard]] std::size_t node_of(std::size_t rank) const
    requires NodeAwareCommunicator<C>
  {
    return inner_.node_of(rank);
  }

  void broadcast(mutable_bytes buffer, std::size_t root) {
    count("broadcast");
    inner_.broadcast(buffer, root);
  }
  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit)
    requires requires(C& comm) { comm.broadcast(buffer, root, limit); }
  {
    count("broadcast");
    inner_.broadcast(buffer, root, limit);
  }
  void scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root)
    requires ScatterCommunicator<C>
  {
    count("scatter");
    inner_.scatter(windows, own, root);
  }
  void all_gather(bytes_view own, mutable_bytes all, deadline limit)
    requires AllGatherCommunicator<C>
  {
    count("all_gather");
    inner_.all_gather(own, all, limit);
  }
  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group, deadline limit)
    requires AllGatherCommunicator<C>
  {
    count("all_gather");
    inner_.all_gather(own, all, group, limit);
  }
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, deadline limit)
    requires ReduceScatterCommunicator<C>
  {
    count("reduce_scatter");
    inner_.reduce_scatter(contribution, own, limit);
  }
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, std::span<const std::size_t> group,
                      deadline limit)
    requires ReduceScatterCommunicator<C>
  {
    count("reduce_scatter");
    inner_.reduce_scatter(contribution, own, group, limit);
  }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value)
    requires requires(C& comm) { comm.all_reduce_max(value); }
  {
    count("all_reduce_max");
    return inner_.all_reduce_max(value);
  }
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit)
    requires requires(C& comm) { comm.all_reduce_max(value, limit); }
  {
    count("all_reduce_max");
    return inner_.all_reduce_max(value, limit);
  }
  [[nodiscard]] error fail(const error& cause)
    requires FailableControl<C>
  {
    return inner_.fail(cause);
  }
  void interrupt() noexcept
    requires InterruptibleCommunicator<C>
  {
    inner_.interrupt();
  }
  void rearm() noexcept
    requires InterruptibleCommunicator<C>
  {
    inner_.rearm();
  }

 protected:
  void count(std::string_view what) const {
    if (counter_.fails_now()) {
      throw error(errc::communication, "", concat("injected into ", what));
    }
  }

  C& inner_;
  call_counter counter_;
};

template <Communicator C>
class faulty_communicator : public faulty_communicator_base<C> {
 public:
  using faulty_communicator_base<C>::faulty_communicator_base;
};

template <NonBlockingCommunicator C>
class faulty_communicator<C> : public faulty_communicator_base<C> {
 public:
  using token = typename C::token;
  using faulty_communicator_base<C>::faulty_communicator_base;

  [[nodiscard]] token start_broadcast(mutable_bytes buffer, std::size_t root) {
    this->count("start_broadcast");
    return this->inner_.start_broadcast(buffer, root);
  }
  [[nodiscard]] token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root)
    requires NonBlockingScatterCommunicator<C>
  {
    this->count("start_scatter");
    return this->inner_.start_scatter(windows, own, root);
  }
  [[nodiscard]] token start_broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group)
    requires GroupCommunicator<C>
  {
    this->count("start_broadcast");
    return this->inner_.start_broadcast(buffer, root, group);
  }
  [[nodiscard]] token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root,
                                    std::span<const std::size_t> group)
    requires GroupCommunicator<C>
  {
    this->count("start_scatter");
    return this->inner_.start_scatter(windows, own, root, group);
  }
  void wait(token& operation, deadline limit) {
    this->inner_.wait(operation, limit);
    this->count("wait");
  }
};

template <class C>
faulty_communicator(C&, call_counter) -> faulty_communicator<C>;

/// A state dict of which one read throws error{io} that names the tensor, or for `read_file` nothing.
template <StateDictSource S>
class faulty_source {
 public:
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
  [[nodiscard]] std::size_t file_count() const
    requires PositionedSource<S>
  {
    return inner_.file_count();
  }
  [[nodiscard]] file_position position_of(std::size_t tensor) const
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
