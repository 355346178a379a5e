#pragma once

#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/modules/parameter.hpp>
#include <fsdpinit/observe/observer.hpp>

#include <algorithm>
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
/// The least that models each concept, and works: algorithms are instantiated with these, so that they ask for nothing
/// that the concept does not promise. Nothing here is copyable, default-constructible or comparable unless it must be.

namespace fsdpinit::testing_support {

// -- communicators

struct minimal_communicator {
  explicit minimal_communicator(threads_communicator inner) : inner_(std::move(inner)) {}
  minimal_communicator(const minimal_communicator&) = delete;
  minimal_communicator& operator=(const minimal_communicator&) = delete;

  // Not std::size_t: converting to it is all that is asked.
  [[nodiscard]] std::uint16_t rank() const { return static_cast<std::uint16_t>(inner_.rank()); }
  [[nodiscard]] std::uint16_t size() const { return static_cast<std::uint16_t>(inner_.size()); }
  void broadcast(mutable_bytes buffer, std::size_t root) { inner_.broadcast(buffer, root); }

 protected:
  threads_communicator inner_;
};

struct scattering_communicator : minimal_communicator {
  using minimal_communicator::minimal_communicator;
  void scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root) {
    auto token = inner_.start_scatter(windows, own, root);
    inner_.wait(token, deadline::never());
  }
};

/// Its token is move-only and cannot be made without an operation: nothing else may be waited for, nor twice.
struct non_blocking_communicator : minimal_communicator {
  using minimal_communicator::minimal_communicator;
  class token {
   public:
    token(token&&) noexcept = default;
    token& operator=(token&&) noexcept = default;

   private:
    friend struct non_blocking_communicator;
    explicit token(threads_communicator::token started)
        : started_(std::make_unique<threads_communicator::token>(started)) {}
    std::unique_ptr<threads_communicator::token> started_;
  };
  token start_broadcast(mutable_bytes buffer, std::size_t root) { return token(inner_.start_broadcast(buffer, root)); }
  void wait(token& operation, deadline limit) {
    if (operation.started_ == nullptr || !operation.started_->active) {
      throw error(errc::communication, "", "waited for an operation that was not started");
    }
    inner_.wait(*operation.started_, limit);
  }

 protected:
  token started(threads_communicator::token operation) { return token(operation); }
};

/// Scatters, but only blocking, though broadcasts can be started.
struct half_blocking_communicator : non_blocking_communicator {
  using non_blocking_communicator::non_blocking_communicator;
  void scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root) {
    auto operation = inner_.start_scatter(windows, own, root);
    inner_.wait(operation, deadline::never());
  }
};

struct group_communicator : non_blocking_communicator {
  using non_blocking_communicator::non_blocking_communicator;
  using non_blocking_communicator::start_broadcast;
  token start_broadcast(mutable_bytes buffer, std::size_t root, std::span<const std::size_t> group) {
    return started(inner_.start_broadcast(buffer, root, group));
  }
  token start_scatter(std::span<const bytes_view> windows, mutable_bytes own, std::size_t root,
                      std::span<const std::size_t> group) {
    return started(inner_.start_scatter(windows, own, root, group));
  }
};

struct node_aware_communicator : minimal_communicator {
  using minimal_communicator::minimal_communicator;
  [[nodiscard]] std::uint16_t node_of(std::size_t rank) const {
    return static_cast<std::uint16_t>(inner_.node_of(rank));
  }
};

struct collective_communicator : minimal_communicator {
  using minimal_communicator::minimal_communicator;
  void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group, deadline limit) {
    inner_.all_gather(own, all, group, limit);
  }
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, std::span<const std::size_t> group,
                      deadline limit) {
    inner_.reduce_scatter(contribution, own, group, limit);
  }
};

struct interruptible_communicator : non_blocking_communicator {
  using non_blocking_communicator::non_blocking_communicator;
  void interrupt() noexcept { inner_.interrupt(); }
  void rearm() noexcept { inner_.rearm(); }
};

struct reserving_communicator : non_blocking_communicator {
  using non_blocking_communicator::non_blocking_communicator;
  void reserve(const expected_operations& most) { inner_.reserve(most); }
};

struct reducing_control : minimal_communicator {
  using minimal_communicator::minimal_communicator;
  std::uint64_t all_reduce_max(std::uint64_t value) { return inner_.all_reduce_max(value); }
};

struct failable_control : minimal_communicator {
  using minimal_communicator::minimal_communicator;
  error fail(const error& cause) { return inner_.fail(cause); }
};

// -- sources

template <class Inner>
struct minimal_source {
  explicit minimal_source(Inner inner) : inner_(std::move(inner)) {}
  minimal_source(minimal_source&&) = default;
  minimal_source& operator=(minimal_source&&) = delete;
  [[nodiscard]] std::span<const tensor_descriptor> tensors() const { return inner_.tensors(); }
  void read(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    inner_.read(tensor, offset, destination);
  }

 protected:
  Inner inner_;
};

/// Says that what it shows is what is stored.
template <class Inner>
struct minimal_casting_source : minimal_source<Inner> {
  using minimal_source<Inner>::minimal_source;
  [[nodiscard]] dtype stored_dtype(std::size_t tensor) const { return this->inner_.tensors()[tensor].dtype; }
  void read_stored(std::size_t tensor, std::uint64_t offset, mutable_bytes destination) {
    this->inner_.read(tensor, offset, destination);
  }
};

/// A file for each tensor, with a header of 10 bytes.
template <class Inner>
struct minimal_positioned_source : minimal_source<Inner> {
  using minimal_source<Inner>::minimal_source;
  static constexpr std::uint64_t header = 10;
  // Not std::size_t: converting to it is all that is asked.
  [[nodiscard]] std::uint16_t file_count() const { return static_cast<std::uint16_t>(this->inner_.tensors().size()); }
  [[nodiscard]] file_position position_of(std::size_t tensor) const { return {.file = tensor, .offset = header}; }
  void read_file(std::size_t file, std::uint64_t offset, mutable_bytes destination) {
    this->inner_.read(file, offset - header, destination);
  }
};

template <class Inner>
struct minimal_vectored_source : minimal_positioned_source<Inner> {
  using minimal_positioned_source<Inner>::minimal_positioned_source;
  void read_file_into(std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> destinations) {
    for (const mutable_bytes each : destinations) {
      this->read_file(file, offset, each);
      offset += each.size();
    }
  }
};

template <class Inner>
struct minimal_renaming_source : minimal_source<Inner> {
  using minimal_source<Inner>::minimal_source;
  [[nodiscard]] const char* stored_name(std::size_t tensor) const {
    return this->inner_.tensors()[tensor].name.c_str();
  }
};

template <class Inner>
struct minimal_indexed_source : minimal_source<Inner> {
  using minimal_source<Inner>::minimal_source;
  [[nodiscard]] std::span<const unlisted_tensor> unlisted() const { return {}; }
};

/// Opens, and is nothing else.
template <class Inner>
struct minimal_opener {
  Inner* inner;
  minimal_source<Inner> operator()() { return minimal_source<Inner>(*inner); }
};

// -- memory

struct minimal_memory {
  class queue {};
  static constexpr bool host_accessible = true;

  explicit minimal_memory(host_memory inner) : inner_(std::move(inner)) {}
  std::byte* allocate(std::uint64_t bytes) { return inner_.allocate(bytes); }
  void deallocate(std::byte* address, std::uint64_t bytes) noexcept { inner_.deallocate(address, bytes); }
  void copy_in(std::byte* destination, const std::byte* source, std::uint64_t stride, std::uint64_t run,
               std::uint64_t count, queue&) {
    inner_.copy_in(destination, source, stride, run, count, order_);
  }
  void copy_out(std::byte* destination, const std::byte* source, std::uint64_t bytes, queue&) {
    inner_.copy_out(destination, source, bytes, order_);
  }
  void wait(queue&) {}
  [[nodiscard]] std::uint64_t accounted() const noexcept { return inner_.accounted(); }
  [[nodiscard]] std::uint64_t accounted_peak() const noexcept { return inner_.accounted_peak(); }
  void restart_peak() noexcept { inner_.restart_peak(); }

 private:
  host_memory inner_;
  host_memory::queue order_;
};

/// What a LocallyCopyingMemory needs, and nothing else.
struct minimal_copying_memory : minimal_memory {
  using minimal_memory::minimal_memory;
  void copy_within(std::byte* destination, std::uint64_t destination_stride, const std::byte* source,
                   std::uint64_t source_stride, std::uint64_t run, std::uint64_t count, queue&) {
    for (std::uint64_t i = 0; i < count && run != 0; ++i) {
      std::memcpy(destination + i * destination_stride, source + i * source_stride, run);
    }
  }
  void zero(std::byte* destination, std::uint64_t bytes, queue&) { std::fill_n(destination, bytes, std::byte{0}); }
};

// -- slots and modules

/// A framework's own tensor, seen through slot_traits alone.
struct foreign_tensor {
  foreign_tensor(dtype type, shape extents) : type_(type), extents_(std::move(extents)) {}
  foreign_tensor(const foreign_tensor&) = delete;
  foreign_tensor& operator=(const foreign_tensor&) = delete;

  dtype type_;
  shape extents_;
  std::optional<local_shard> storage_;
};

/// A module tree, seen through module_traits alone.
struct foreign_module {
  foreign_tensor weight{dtype::f32, {6, 5}};
  foreign_tensor bias{dtype::bf16, {7}};
  foreign_module() = default;
  foreign_module(const foreign_module&) = delete;
  foreign_module& operator=(const foreign_module&) = delete;
};

/// Holds references to slots of one framework and nothing else.
struct minimal_optimizer {
  explicit minimal_optimizer(std::vector<std::vector<std::string>> groups) : names_(std::move(groups)) {
    for (const std::vector<std::string>& group : names_) {
      bound.emplace_back().reserve(group.size());
    }
  }
  minimal_optimizer(const minimal_optimizer&) = delete;
  minimal_optimizer& operator=(const minimal_optimizer&) = delete;

  [[nodiscard]] std::vector<std::vector<std::string>> parameter_groups() const { return names_; }
  [[nodiscard]] bool has_state() const { return false; }
  void drop_references() noexcept {
    for (std::vector<foreign_tensor*>& group : bound) {
      group.clear();
    }
  }
  void rebind(std::size_t group, std::string_view, foreign_tensor& slot) noexcept { bound[group].push_back(&slot); }

  std::vector<std::vector<foreign_tensor*>> bound;

 private:
  std::vector<std::vector<std::string>> names_;
};

struct minimal_observer {
  minimal_observer() = default;
  minimal_observer(const minimal_observer&) = delete;
  minimal_observer& operator=(const minimal_observer&) = delete;
  void phase(const char*) {}
  void progress(std::uint64_t, std::uint64_t) {}
};

struct minimal_waiting_observer : minimal_observer {
  void waiting(const char*, double) noexcept {}
};

}  // namespace fsdpinit::testing_support

template <>
struct fsdpinit::slot_traits<fsdpinit::testing_support::foreign_tensor> {
  using tensor = fsdpinit::testing_support::foreign_tensor;
  static slot_role role(const tensor&) { return slot_role::parameter; }
  static fsdpinit::dtype dtype(const tensor& slot) { return slot.type_; }
  static fsdpinit::shape shape(const tensor& slot) { return slot.extents_; }
  static shard placement(const tensor&) { return {}; }
  static std::byte* data(const tensor& slot) { return slot.storage_ ? slot.storage_->data.get() : nullptr; }
  static void drop(tensor& slot) noexcept { slot.storage_.reset(); }
  static void adopt(tensor& slot, local_shard&& part) noexcept { slot.storage_ = std::move(part); }
};

template <>
struct fsdpinit::module_traits<fsdpinit::testing_support::foreign_module> {
  template <class Visitor>
  static void visit_slots(fsdpinit::testing_support::foreign_module& module, Visitor&& visitor) {
    visitor(std::string_view("weight"), module.weight);
    visitor(std::string_view("bias"), module.bias);
  }
};
