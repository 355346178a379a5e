#include "support/adamw.hpp"
#include "support/archetypes.hpp"
#include "support/fake_device_memory.hpp"
#include <fsdpinit/communicators/self.hpp>
#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/concepts/optimizer.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>
#include <fsdpinit/sources/in_memory.hpp>
#include <fsdpinit/testing/faults.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Each concept accepts its archetype and our own models, and rejects a mutant for every clause: the archetype with
/// that one thing wrong. All of it at compile time.

namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::faulty_communicator;
using fsdpinit::testing::faulty_memory;
using fsdpinit::testing::faulty_module;
using fsdpinit::testing::faulty_source;

// -- Communicator

static_assert(Communicator<minimal_communicator>);
static_assert(Communicator<self_communicator>);
static_assert(Communicator<threads_communicator>);

struct without_rank {
  [[nodiscard]] std::size_t size() const;
  void broadcast(mutable_bytes, std::size_t);
};
static_assert(!Communicator<without_rank>);
struct rank_not_const {
  std::size_t rank();
  [[nodiscard]] std::size_t size() const;
  void broadcast(mutable_bytes, std::size_t);
};
static_assert(!Communicator<rank_not_const>);
struct rank_is_text {
  [[nodiscard]] std::string_view rank() const;
  [[nodiscard]] std::size_t size() const;
  void broadcast(mutable_bytes, std::size_t);
};
static_assert(!Communicator<rank_is_text>);
struct without_size {
  [[nodiscard]] std::size_t rank() const;
  void broadcast(mutable_bytes, std::size_t);
};
static_assert(!Communicator<without_size>);
struct size_is_text {
  [[nodiscard]] std::size_t rank() const;
  [[nodiscard]] std::string_view size() const;
  void broadcast(mutable_bytes, std::size_t);
};
static_assert(!Communicator<size_is_text>);
struct without_broadcast {
  [[nodiscard]] std::size_t rank() const;
  [[nodiscard]] std::size_t size() const;
};
static_assert(!Communicator<without_broadcast>);
struct broadcast_of_const : without_broadcast {
  void broadcast(int*, std::size_t);
};
static_assert(!Communicator<broadcast_of_const>);
struct broadcast_without_root : without_broadcast {
  void broadcast(mutable_bytes);
};
static_assert(!Communicator<broadcast_without_root>);
/// A status that nobody would look at: failures are exceptions.
struct broadcast_returns_a_status : without_broadcast {
  int broadcast(mutable_bytes, std::size_t);
};
static_assert(!Communicator<broadcast_returns_a_status>);

// -- its refinements

static_assert(ScatterCommunicator<scattering_communicator>);
static_assert(!ScatterCommunicator<minimal_communicator>);
static_assert(CanScatter<scattering_communicator> && CanScatter<non_blocking_scatter_communicator>);
static_assert(!CanScatter<minimal_communicator> && !CanScatter<non_blocking_communicator>);
struct scatter_alone {
  void scatter(std::span<const bytes_view>, mutable_bytes, std::size_t);
};
static_assert(!ScatterCommunicator<scatter_alone>);
struct scatter_returns_a_status : minimal_communicator {
  int scatter(std::span<const bytes_view>, mutable_bytes, std::size_t);
};
static_assert(!ScatterCommunicator<scatter_returns_a_status>);
struct scatter_of_one_block : minimal_communicator {
  void scatter(bytes_view, mutable_bytes, std::size_t);
};
static_assert(!ScatterCommunicator<scatter_of_one_block>);

static_assert(NonBlockingCommunicator<non_blocking_communicator>);
static_assert(NonBlockingCommunicator<threads_communicator> && NonBlockingCommunicator<self_communicator>);
static_assert(!NonBlockingCommunicator<minimal_communicator>);
struct without_token : minimal_communicator {
  int start_broadcast(mutable_bytes, std::size_t);
  void wait(int&, deadline);
};
static_assert(!NonBlockingCommunicator<without_token>);
struct pinned {
  pinned(pinned&&) = delete;
};
struct token_cannot_move : minimal_communicator {
  using token = pinned;
  token start_broadcast(mutable_bytes, std::size_t);
  void wait(token&, deadline);
};
static_assert(!NonBlockingCommunicator<token_cannot_move>);
struct starts_something_else : minimal_communicator {
  using token = int;
  long start_broadcast(mutable_bytes, std::size_t);
  void wait(token&, deadline);
};
static_assert(!NonBlockingCommunicator<starts_something_else>);
struct waits_without_deadline : minimal_communicator {
  using token = int;
  token start_broadcast(mutable_bytes, std::size_t);
  void wait(token&);
};
static_assert(!NonBlockingCommunicator<waits_without_deadline>);
struct wait_returns_a_status : minimal_communicator {
  using token = int;
  token start_broadcast(mutable_bytes, std::size_t);
  bool wait(token&, deadline);
};
static_assert(!NonBlockingCommunicator<wait_returns_a_status>);

static_assert(NonBlockingScatterCommunicator<non_blocking_scatter_communicator>);
static_assert(NonBlockingScatterCommunicator<threads_communicator>);
static_assert(!NonBlockingScatterCommunicator<non_blocking_communicator>);
static_assert(!NonBlockingScatterCommunicator<half_blocking_communicator>);
struct scatter_starts_something_else : non_blocking_communicator {
  int start_scatter(std::span<const bytes_view>, mutable_bytes, std::size_t);
};
static_assert(!NonBlockingScatterCommunicator<scatter_starts_something_else>);

static_assert(GroupCommunicator<group_communicator>);
static_assert(GroupCommunicator<threads_communicator> && GroupCommunicator<self_communicator>);
static_assert(!GroupCommunicator<non_blocking_scatter_communicator>);
struct groups_only_broadcast : non_blocking_scatter_communicator {
  using non_blocking_communicator::start_broadcast;
  token start_broadcast(mutable_bytes, std::size_t, std::span<const std::size_t>);
};
static_assert(!GroupCommunicator<groups_only_broadcast>);
struct groups_only_scatter : non_blocking_scatter_communicator {
  using non_blocking_scatter_communicator::start_scatter;
  token start_scatter(std::span<const bytes_view>, mutable_bytes, std::size_t, std::span<const std::size_t>);
};
static_assert(!GroupCommunicator<groups_only_scatter>);
struct groups_alone : group_communicator {
  token start_broadcast(mutable_bytes, std::size_t, std::span<const std::size_t>);
};
static_assert(!GroupCommunicator<groups_alone>);
struct groups_of_mutable_ranks : group_communicator {
  using non_blocking_communicator::start_broadcast;
  token start_broadcast(mutable_bytes, std::size_t, std::span<std::size_t>);
};
static_assert(!GroupCommunicator<groups_of_mutable_ranks>);
struct group_scatter_starts_something_else : group_communicator {
  using non_blocking_scatter_communicator::start_scatter;
  int start_scatter(std::span<const bytes_view>, mutable_bytes, std::size_t, std::span<const std::size_t>);
};
static_assert(!GroupCommunicator<group_scatter_starts_something_else>);

static_assert(NodeAwareCommunicator<node_aware_communicator>);
static_assert(NodeAwareCommunicator<threads_communicator> && NodeAwareCommunicator<self_communicator>);
static_assert(!NodeAwareCommunicator<minimal_communicator>);
struct node_of_not_const : minimal_communicator {
  std::size_t node_of(std::size_t);
};
static_assert(!NodeAwareCommunicator<node_of_not_const>);
struct node_is_a_name : minimal_communicator {
  [[nodiscard]] std::string_view node_of(std::size_t) const;
};
static_assert(!NodeAwareCommunicator<node_is_a_name>);
struct knows_its_own_node : minimal_communicator {
  [[nodiscard]] std::size_t node_of() const;
};
static_assert(!NodeAwareCommunicator<knows_its_own_node>);

static_assert(AllGatherCommunicator<gathering_communicator> && !AllGatherCommunicator<minimal_communicator>);
static_assert(AllGatherCommunicator<threads_communicator> && AllGatherCommunicator<self_communicator>);
static_assert(!AllGatherCommunicator<reducing_communicator> && !ReduceScatterCommunicator<gathering_communicator>);
struct gathers_all_ranks_only : minimal_communicator {
  void all_gather(bytes_view, mutable_bytes, deadline);
};
static_assert(!AllGatherCommunicator<gathers_all_ranks_only>);
struct gathers_groups_only : minimal_communicator {
  void all_gather(bytes_view, mutable_bytes, std::span<const std::size_t>, deadline);
};
static_assert(!AllGatherCommunicator<gathers_groups_only>);
struct gathers_without_deadline : minimal_communicator {
  void all_gather(bytes_view, mutable_bytes);
  void all_gather(bytes_view, mutable_bytes, std::span<const std::size_t>);
};
static_assert(!AllGatherCommunicator<gathers_without_deadline>);
struct gather_returns_a_status : minimal_communicator {
  int all_gather(bytes_view, mutable_bytes, deadline);
  void all_gather(bytes_view, mutable_bytes, std::span<const std::size_t>, deadline);
};
static_assert(!AllGatherCommunicator<gather_returns_a_status>);
struct gathers_alone {
  void all_gather(bytes_view, mutable_bytes, deadline);
  void all_gather(bytes_view, mutable_bytes, std::span<const std::size_t>, deadline);
};
static_assert(!AllGatherCommunicator<gathers_alone>);

static_assert(ReduceScatterCommunicator<reducing_communicator> && !ReduceScatterCommunicator<minimal_communicator>);
static_assert(ReduceScatterCommunicator<threads_communicator> && ReduceScatterCommunicator<self_communicator>);
struct reduces_all_ranks_only : minimal_communicator {
  void reduce_scatter(std::span<const float>, std::span<float>, deadline);
};
static_assert(!ReduceScatterCommunicator<reduces_all_ranks_only>);
struct reduces_groups_only : minimal_communicator {
  void reduce_scatter(std::span<const float>, std::span<float>, std::span<const std::size_t>, deadline);
};
static_assert(!ReduceScatterCommunicator<reduces_groups_only>);
struct reduces_doubles : minimal_communicator {
  void reduce_scatter(std::span<const double>, std::span<double>, deadline);
  void reduce_scatter(std::span<const double>, std::span<double>, std::span<const std::size_t>, deadline);
};
static_assert(!ReduceScatterCommunicator<reduces_doubles>);
/// It may not spoil what it reads.
struct reduces_in_the_contribution : minimal_communicator {
  void reduce_scatter(std::span<float>, std::span<float>, deadline);
  void reduce_scatter(std::span<float>, std::span<float>, std::span<const std::size_t>, deadline);
};
static_assert(!ReduceScatterCommunicator<reduces_in_the_contribution>);

static_assert(InterruptibleCommunicator<interruptible_communicator>);
static_assert(InterruptibleCommunicator<threads_communicator>);
static_assert(!InterruptibleCommunicator<non_blocking_communicator> && !InterruptibleCommunicator<self_communicator>);
struct interrupt_may_throw : non_blocking_communicator {
  void interrupt();
  void rearm() noexcept;
};
static_assert(!InterruptibleCommunicator<interrupt_may_throw>);
struct rearm_may_throw : non_blocking_communicator {
  void interrupt() noexcept;
  void rearm();
};
static_assert(!InterruptibleCommunicator<rearm_may_throw>);
struct without_rearm : non_blocking_communicator {
  void interrupt() noexcept;
};
static_assert(!InterruptibleCommunicator<without_rearm>);

static_assert(ReservingCommunicator<reserving_communicator> && ReservingCommunicator<threads_communicator>);
static_assert(!ReservingCommunicator<non_blocking_communicator>);
struct reserves_without_starting : minimal_communicator {
  void reserve(const expected_operations&);
};
static_assert(!ReservingCommunicator<reserves_without_starting>);
struct reserves_nothing_in_particular : non_blocking_communicator {
  void reserve();
};
static_assert(!ReservingCommunicator<reserves_nothing_in_particular>);
struct reserves_perhaps : non_blocking_communicator {
  bool reserve(const expected_operations&);
};
static_assert(!ReservingCommunicator<reserves_perhaps>);

static_assert(ReducingControl<reducing_control> && ReducingControl<self_communicator>);
static_assert(ReducingControl<threads_communicator>);
static_assert(!ReducingControl<minimal_communicator>);
struct reduces_to_32_bits : minimal_communicator {
  std::uint32_t all_reduce_max(std::uint64_t);
};
static_assert(!ReducingControl<reduces_to_32_bits>);

static_assert(FailableControl<failable_control> && FailableControl<threads_communicator>);
static_assert(!FailableControl<minimal_communicator> && !FailableControl<self_communicator>);
struct fails_silently : minimal_communicator {
  void fail(const error&);
};
static_assert(!FailableControl<fails_silently>);

// -- StateDictSource

static_assert(StateDictSource<minimal_source<in_memory_source>>);
static_assert(StateDictSource<in_memory_source>);
static_assert(SourceOpener<minimal_opener<in_memory_source>>);
static_assert(!SourceOpener<in_memory_source> && !StateDictSource<minimal_opener<in_memory_source>>);

struct without_tensors {
  void read(std::size_t, std::uint64_t, mutable_bytes);
};
static_assert(!StateDictSource<without_tensors>);
struct tensors_not_const {
  std::span<const tensor_descriptor> tensors();
  void read(std::size_t, std::uint64_t, mutable_bytes);
};
static_assert(!StateDictSource<tensors_not_const>);
struct tensors_of_names {
  [[nodiscard]] std::span<const std::string_view> tensors() const;
  void read(std::size_t, std::uint64_t, mutable_bytes);
};
static_assert(!StateDictSource<tensors_of_names>);
struct without_read {
  [[nodiscard]] std::span<const tensor_descriptor> tensors() const;
};
static_assert(!StateDictSource<without_read>);
/// A count of bytes read would go unnoticed: a short read is an exception.
struct read_returns_a_count : without_read {
  std::size_t read(std::size_t, std::uint64_t, mutable_bytes);
};
static_assert(!StateDictSource<read_returns_a_count>);
struct reads_whole_tensors : without_read {
  void read(std::size_t, mutable_bytes);
};
static_assert(!StateDictSource<reads_whole_tensors>);
struct opens_nothing {
  int operator()();
};
static_assert(!SourceOpener<opens_nothing>);

// -- its refinements

static_assert(CastingSource<minimal_casting_source<in_memory_source>>);
static_assert(!CastingSource<minimal_source<in_memory_source>> && !CastingSource<in_memory_source>);
struct casts_alone {
  [[nodiscard]] dtype stored_dtype(std::size_t) const;
  void read_stored(std::size_t, std::uint64_t, mutable_bytes);
};
static_assert(!CastingSource<casts_alone>);
struct without_read_stored : in_memory_source {
  [[nodiscard]] dtype stored_dtype(std::size_t) const;
};
static_assert(!CastingSource<without_read_stored>);
struct without_stored_dtype : in_memory_source {
  void read_stored(std::size_t, std::uint64_t, mutable_bytes);
};
static_assert(!CastingSource<without_stored_dtype>);
struct stored_dtype_not_const : without_stored_dtype {
  dtype stored_dtype(std::size_t);
};
static_assert(!CastingSource<stored_dtype_not_const>);
/// Bits or a name could be either side's; only a dtype says how to convert.
struct stored_dtype_in_bits : without_stored_dtype {
  [[nodiscard]] std::uint64_t stored_dtype(std::size_t) const;
};
static_assert(!CastingSource<stored_dtype_in_bits>);
struct read_stored_returns_a_count : without_read_stored {
  std::size_t read_stored(std::size_t, std::uint64_t, mutable_bytes);
};
static_assert(!CastingSource<read_stored_returns_a_count>);

static_assert(ConcurrentSource<in_memory_source> && !ConcurrentSource<minimal_source<in_memory_source>>);
struct concurrent_source : minimal_source<in_memory_source> {
  static constexpr bool reads_concurrently = true;
};
static_assert(ConcurrentSource<concurrent_source>);
struct not_concurrent : minimal_source<in_memory_source> {
  static constexpr bool reads_concurrently = false;
};
static_assert(!ConcurrentSource<not_concurrent>);
struct concurrent_alone {
  static constexpr bool reads_concurrently = true;
};
static_assert(!ConcurrentSource<concurrent_alone>);

static_assert(PositionedSource<minimal_positioned_source<in_memory_source>>);
static_assert(!PositionedSource<minimal_source<in_memory_source>> && !PositionedSource<in_memory_source>);
struct positions_alone {
  [[nodiscard]] std::size_t file_count() const;
  [[nodiscard]] file_position position_of(std::size_t) const;
  void read_file(std::size_t, std::uint64_t, mutable_bytes);
};
static_assert(!PositionedSource<positions_alone>);
struct without_file_count : in_memory_source {
  [[nodiscard]] file_position position_of(std::size_t) const;
  void read_file(std::size_t, std::uint64_t, mutable_bytes);
};
static_assert(!PositionedSource<without_file_count>);
struct file_count_not_const : without_file_count {
  std::size_t file_count();
};
static_assert(!PositionedSource<file_count_not_const>);
struct without_position : in_memory_source {
  [[nodiscard]] std::size_t file_count() const;
  void read_file(std::size_t, std::uint64_t, mutable_bytes);
};
static_assert(!PositionedSource<without_position>);
struct position_is_an_offset : without_position {
  [[nodiscard]] std::uint64_t position_of(std::size_t) const;
};
static_assert(!PositionedSource<position_is_an_offset>);
struct without_read_file : in_memory_source {
  [[nodiscard]] std::size_t file_count() const;
  [[nodiscard]] file_position position_of(std::size_t) const;
};
static_assert(!PositionedSource<without_read_file>);
struct read_file_returns_a_count : without_read_file {
  std::size_t read_file(std::size_t, std::uint64_t, mutable_bytes);
};
static_assert(!PositionedSource<read_file_returns_a_count>);

static_assert(VectoredSource<minimal_vectored_source<in_memory_source>>);
static_assert(!VectoredSource<minimal_positioned_source<in_memory_source>>);
struct vectored_without_positions : in_memory_source {
  void read_file_into(std::size_t, std::uint64_t, std::span<const mutable_bytes>);
};
static_assert(!VectoredSource<vectored_without_positions>);
struct read_file_into_one_place : minimal_positioned_source<in_memory_source> {
  void read_file_into(std::size_t, std::uint64_t, mutable_bytes);
};
static_assert(!VectoredSource<read_file_into_one_place>);
struct read_file_into_returns_a_count : minimal_positioned_source<in_memory_source> {
  std::size_t read_file_into(std::size_t, std::uint64_t, std::span<const mutable_bytes>);
};
static_assert(!VectoredSource<read_file_into_returns_a_count>);

static_assert(RenamingSource<minimal_renaming_source<in_memory_source>> && !RenamingSource<in_memory_source>);
struct stored_name_not_const : in_memory_source {
  std::string_view stored_name(std::size_t);
};
static_assert(!RenamingSource<stored_name_not_const>);
struct stored_name_is_a_number : in_memory_source {
  [[nodiscard]] std::size_t stored_name(std::size_t) const;
};
static_assert(!RenamingSource<stored_name_is_a_number>);

static_assert(IndexedSource<minimal_indexed_source<in_memory_source>> && !IndexedSource<in_memory_source>);
struct unlisted_not_const : in_memory_source {
  std::span<const unlisted_tensor> unlisted();
};
static_assert(!IndexedSource<unlisted_not_const>);
struct unlisted_is_a_number : in_memory_source {
  [[nodiscard]] std::size_t unlisted() const;
};
static_assert(!IndexedSource<unlisted_is_a_number>);

// -- MemorySpace

static_assert(MemorySpace<minimal_memory> && MemorySpace<host_memory> && MemorySpace<fake_device_memory>);
static_assert(CanAccess<minimal_communicator, host_memory> && !CanAccess<minimal_communicator, fake_device_memory>);

struct not_copyable : minimal_memory {
  not_copyable(const not_copyable&) = delete;
};
static_assert(!MemorySpace<not_copyable>);
struct without_queue : minimal_memory {
 private:
  using queue = int;
};
static_assert(!MemorySpace<without_queue>);
struct queue_of_something : minimal_memory {
  struct queue : minimal_memory::queue {
    explicit queue(int);
  };
};
static_assert(!MemorySpace<queue_of_something>);
struct accessible_who_knows : minimal_memory {
  struct unknown {};
  static constexpr unknown host_accessible{};
};
static_assert(!MemorySpace<accessible_who_knows>);
struct allocates_void : minimal_memory {
  void* allocate(std::uint64_t);
};
static_assert(!MemorySpace<allocates_void>);
struct deallocate_may_throw : minimal_memory {
  void deallocate(std::byte*, std::uint64_t);
};
static_assert(!MemorySpace<deallocate_may_throw>);
struct copies_in_without_stride : minimal_memory {
  void copy_in(std::byte*, const std::byte*, std::uint64_t, queue&);
};
static_assert(!MemorySpace<copies_in_without_stride>);
struct copies_in_from_mutable : minimal_memory {
  void copy_in(std::byte*, std::byte*, std::uint64_t, std::uint64_t, std::uint64_t, queue&);
};
static_assert(!MemorySpace<copies_in_from_mutable>);
struct without_copy_out : minimal_memory {
 private:
  using minimal_memory::copy_out;
};
static_assert(!MemorySpace<without_copy_out>);
struct wait_is_a_question : minimal_memory {
  bool wait(queue&);
};
static_assert(!MemorySpace<wait_is_a_question>);
struct accounts_in_32_bits : minimal_memory {
  [[nodiscard]] std::uint32_t accounted() const;
};
static_assert(!MemorySpace<accounts_in_32_bits>);
struct peak_in_32_bits : minimal_memory {
  [[nodiscard]] std::uint32_t accounted_peak() const;
};
static_assert(!MemorySpace<peak_in_32_bits>);
struct restart_may_throw : minimal_memory {
  void restart_peak();
};
static_assert(!MemorySpace<restart_may_throw>);

static_assert(LocallyCopyingMemory<minimal_copying_memory> && LocallyCopyingMemory<fake_device_memory>);
static_assert(!LocallyCopyingMemory<minimal_memory> && !LocallyCopyingMemory<host_memory>);
struct copies_within_without_strides : minimal_copying_memory {
  void copy_within(std::byte*, const std::byte*, std::uint64_t, queue&);
};
static_assert(!LocallyCopyingMemory<copies_within_without_strides>);
struct copies_within_from_mutable : minimal_copying_memory {
  void copy_within(std::byte*, std::uint64_t, std::byte*, std::uint64_t, std::uint64_t, std::uint64_t, queue&);
};
static_assert(!LocallyCopyingMemory<copies_within_from_mutable>);
struct without_zero : minimal_copying_memory {
 private:
  using minimal_copying_memory::zero;
};
static_assert(!LocallyCopyingMemory<without_zero>);
struct zero_returns_a_count : minimal_copying_memory {
  std::uint64_t zero(std::byte*, std::uint64_t, queue&);
};
static_assert(!LocallyCopyingMemory<zero_returns_a_count>);
struct copies_but_is_no_space : minimal_copying_memory {
  bool wait(queue&);
};
static_assert(!LocallyCopyingMemory<copies_but_is_no_space>);

// -- ParameterSlot

static_assert(ParameterSlot<foreign_tensor> && ParameterSlot<parameter> && ParameterSlot<buffer>);
static_assert(!ParameterSlot<int> && !ParameterSlot<dynamic_module>);

template <int Mutation>
struct mutant_slot : foreign_tensor {};
using good_traits = slot_traits<foreign_tensor>;

// -- ShardableModule

static_assert(ShardableModule<foreign_module> && ShardableModule<dynamic_module>);
static_assert(!ShardableModule<int> && !ShardableModule<foreign_tensor>);
struct names_units : dynamic_module {
  [[nodiscard]] bool is_unit(std::string_view) const;
};
struct visits_nothing_callable {
  void visit_slots(int);
};
static_assert(!ShardableModule<visits_nothing_callable>);
struct visits_const_only {
 private:
  template <class Visitor>
  void visit_slots(Visitor&& visitor);
};
static_assert(!ShardableModule<visits_const_only>);

static_assert(NamesUnits<names_units> && NamesUnits<faulty_module<names_units>>);
static_assert(!NamesUnits<dynamic_module> && !NamesUnits<faulty_module<dynamic_module>>);
struct units_not_const : dynamic_module {
  bool is_unit(std::string_view);
};
static_assert(!NamesUnits<units_not_const>);
struct units_by_number : dynamic_module {
  [[nodiscard]] bool is_unit(int) const;
};
static_assert(!NamesUnits<units_by_number>);
struct units_are_names : dynamic_module {
  [[nodiscard]] std::string is_unit(std::string_view) const;
};
static_assert(!NamesUnits<units_are_names>);

static_assert(LendingSlot<parameter> && LendingSlot<buffer> && !LendingSlot<foreign_tensor>);

// -- ShardableOptimizer

static_assert(ShardableOptimizer<minimal_optimizer> && ShardableOptimizer<no_optimizer>);
static_assert(RebindsTo<minimal_optimizer, foreign_tensor> && !RebindsTo<minimal_optimizer, parameter>);
static_assert(!RebindsTo<no_optimizer, parameter> && !RebindsTo<minimal_optimizer, int>);
static_assert(ShardableOptimizer<adamw> && RebindsTo<adamw, parameter> && !RebindsTo<adamw, buffer>);
struct groups_not_const : minimal_optimizer {
  std::vector<std::vector<std::string>> parameter_groups();
};
static_assert(!ShardableOptimizer<groups_not_const>);
struct one_group_only : minimal_optimizer {
  [[nodiscard]] std::vector<std::string> parameter_groups() const;
};
static_assert(!ShardableOptimizer<one_group_only>);
struct state_unknown : minimal_optimizer {
  void has_state() const;
};
static_assert(!ShardableOptimizer<state_unknown>);
struct drop_may_throw : minimal_optimizer {
  void drop_references();
};
static_assert(!ShardableOptimizer<drop_may_throw>);
struct rebind_may_throw : minimal_optimizer {
  void rebind(std::size_t, std::string_view, foreign_tensor&);
};
static_assert(ShardableOptimizer<rebind_may_throw> && !RebindsTo<rebind_may_throw, foreign_tensor>);
struct rebinds_without_group : minimal_optimizer {
  void rebind(std::string_view, foreign_tensor&) noexcept;
};
static_assert(!RebindsTo<rebinds_without_group, foreign_tensor>);
struct rebinds_to_storage : minimal_optimizer {
  void rebind(std::size_t, std::string_view, std::byte*) noexcept;
};
static_assert(!RebindsTo<rebinds_to_storage, foreign_tensor>);

// -- interruption by and for others

struct alerting : interruptible_communicator {
  bool interrupted();
};
static_assert(AlertingCommunicator<alerting> && AlertingCommunicator<threads_communicator>);
static_assert(!AlertingCommunicator<interruptible_communicator>);
struct alerts_by_a_number : interruptible_communicator {
  int interrupted();
};
static_assert(!AlertingCommunicator<alerts_by_a_number>);
struct alerts_alone : minimal_communicator {
  bool interrupted();
};
static_assert(AlertingControl<alerts_alone> && AlertingControl<alerting>);
static_assert(!AlertingCommunicator<alerts_alone>);
static_assert(!AlertingControl<minimal_communicator> && !AlertingControl<alerts_by_a_number>);
struct connecting : interruptible_communicator {
  void connect();
};
static_assert(ConnectingCommunicator<connecting> && !ConnectingCommunicator<interruptible_communicator>);
struct connects_maybe : interruptible_communicator {
  bool connect();
};
static_assert(!ConnectingCommunicator<connects_maybe>);

// -- Observer

static_assert(Observer<minimal_observer> && Observer<null_observer>);
struct without_phase {
  void progress(std::uint64_t, std::uint64_t);
};
static_assert(!Observer<without_phase>);
struct without_progress {
  void phase(const char*);
};
static_assert(!Observer<without_progress>);
struct phase_asks_back : without_phase {
  bool phase(const char*);
};
static_assert(!Observer<phase_asks_back>);
struct progress_asks_back : without_progress {
  bool progress(std::uint64_t, std::uint64_t);
};
static_assert(!Observer<progress_asks_back>);
static_assert(WaitingObserver<minimal_waiting_observer> && !WaitingObserver<minimal_observer>);
struct waiting_may_throw : minimal_observer {
  void waiting(const char*, double);
};
static_assert(Observer<waiting_may_throw> && !WaitingObserver<waiting_may_throw>);
struct waiting_asks_back : minimal_observer {
  bool waiting(const char*, double) noexcept;
};
static_assert(!WaitingObserver<waiting_asks_back>);

// -- decorators model what they decorate, no more and no less

template <class C>
constexpr bool is_transparent = [] {
  using F = faulty_communicator<C>;
  return Communicator<F> == Communicator<C> && ScatterCommunicator<F> == ScatterCommunicator<C> &&
         NonBlockingCommunicator<F> == NonBlockingCommunicator<C> &&
         NonBlockingScatterCommunicator<F> == NonBlockingScatterCommunicator<C> &&
         GroupCommunicator<F> == GroupCommunicator<C> && NodeAwareCommunicator<F> == NodeAwareCommunicator<C> &&
         AllGatherCommunicator<F> == AllGatherCommunicator<C> &&
         ReduceScatterCommunicator<F> == ReduceScatterCommunicator<C> &&
         InterruptibleCommunicator<F> == InterruptibleCommunicator<C> && ReducingControl<F> == ReducingControl<C> &&
         AlertingControl<F> == AlertingControl<C> && FailableControl<F> == FailableControl<C>;
}();
static_assert(is_transparent<minimal_communicator> && is_transparent<scattering_communicator>);
static_assert(is_transparent<non_blocking_communicator> && is_transparent<non_blocking_scatter_communicator>);
static_assert(is_transparent<gathering_communicator> && is_transparent<reducing_communicator>);
static_assert(is_transparent<group_communicator> && is_transparent<node_aware_communicator>);
static_assert(is_transparent<half_blocking_communicator> && is_transparent<interruptible_communicator>);
static_assert(is_transparent<reducing_control> && is_transparent<failable_control> && is_transparent<alerts_alone>);
static_assert(is_transparent<threads_communicator> && is_transparent<self_communicator>);
template <class S>
constexpr bool is_transparent_source = [] {
  using F = faulty_source<S>;
  return StateDictSource<F> && CastingSource<F> == CastingSource<S> && PositionedSource<F> == PositionedSource<S> &&
         VectoredSource<F> == VectoredSource<S> && RenamingSource<F> == RenamingSource<S> &&
         IndexedSource<F> == IndexedSource<S> && ConcurrentSource<F> == ConcurrentSource<S>;
}();
static_assert(is_transparent_source<in_memory_source>);
static_assert(is_transparent_source<minimal_casting_source<in_memory_source>>);
static_assert(is_transparent_source<minimal_positioned_source<in_memory_source>>);
static_assert(is_transparent_source<minimal_vectored_source<in_memory_source>>);
static_assert(is_transparent_source<minimal_renaming_source<in_memory_source>>);
static_assert(is_transparent_source<minimal_indexed_source<in_memory_source>>);
static_assert(MemorySpace<faulty_memory<host_memory>> && faulty_memory<host_memory>::host_accessible);
static_assert(!LocallyCopyingMemory<faulty_memory<host_memory>> &&
              LocallyCopyingMemory<faulty_memory<fake_device_memory>>);
static_assert(MemorySpace<faulty_memory<fake_device_memory>> && !faulty_memory<fake_device_memory>::host_accessible);
static_assert(ShardableModule<faulty_module<dynamic_module>> && ShardableModule<faulty_module<foreign_module>>);

}  // namespace

// A slot's traits with one thing wrong each; in the namespace of the library, where specialisations must be.
namespace fsdpinit {

template <>
struct slot_traits<mutant_slot<0>> : good_traits {};
template <>
struct slot_traits<mutant_slot<1>> : good_traits {
  static int role(const foreign_tensor&);
};
template <>
struct slot_traits<mutant_slot<2>> : good_traits {
  static std::string_view dtype(const foreign_tensor&);
};
template <>
struct slot_traits<mutant_slot<3>> : good_traits {
  static std::string_view shape(const foreign_tensor&);
};
template <>
struct slot_traits<mutant_slot<4>> : good_traits {
  static int placement(const foreign_tensor&);
};
template <>
struct slot_traits<mutant_slot<5>> : good_traits {
  static void* data(const foreign_tensor&);
};
template <>
struct slot_traits<mutant_slot<6>> : good_traits {
  static void drop(foreign_tensor&);
};
template <>
struct slot_traits<mutant_slot<7>> : good_traits {
  static void adopt(foreign_tensor&, local_shard&&);
};
template <>
struct slot_traits<mutant_slot<8>> : good_traits {
  static void adopt(foreign_tensor&, local_shard&) noexcept;
};
template <>
struct slot_traits<mutant_slot<9>> : good_traits {
  static fsdpinit::dtype dtype(foreign_tensor&);
};

static_assert(ParameterSlot<mutant_slot<0>>);
static_assert(!ParameterSlot<mutant_slot<1>> && !ParameterSlot<mutant_slot<2>> && !ParameterSlot<mutant_slot<3>>);
static_assert(!ParameterSlot<mutant_slot<4>> && !ParameterSlot<mutant_slot<5>> && !ParameterSlot<mutant_slot<6>>);
static_assert(!ParameterSlot<mutant_slot<7>> && !ParameterSlot<mutant_slot<8>> && !ParameterSlot<mutant_slot<9>>);

}  // namespace fsdpinit

TEST(Concepts, AcceptArchetypesAndRejectMutants) { SUCCEED() << "checked at compile time"; }
