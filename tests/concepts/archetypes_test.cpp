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

static_assert(GroupCommunicator<group_communicator>);
static_assert(GroupCommunicator<threads_communicator> && GroupCommunicator<self_communicator>);
static_assert(!GroupCommunicator<non_blocking_communicator> && !GroupCommunicator<half_blocking_communicator>);
struct groups_only_broadcast : non_blocking_communicator {
  using non_blocking_communicator::start_broadcast;
  token start_broadcast(mutable_bytes, std::size_t, std::span<const std::size_t>);
};
static_assert(!GroupCommunicator<groups_only_broadcast>);
struct groups_only_scatter : non_blocking_communicator {
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
struct scatters_all_ranks_only : groups_only_broadcast {
  token start_scatter(std::span<const bytes_view>, mutable_bytes, std::size_t);
};
static_assert(!GroupCommunicator<scatters_all_ranks_only>);
struct group_scatter_starts_something_else : group_communicator {
  int start_scatter(std::span<const bytes_view>, mutable_bytes, std::size_t, std::span<const std::size_t>);
};
static_assert(!GroupCommunicator<group_scatter_starts_something_else>);

static_assert(CollectiveCommunicator<collective_communicator> && !CollectiveCommunicator<minimal_communicator>);
static_assert(CollectiveCommunicator<threads_communicator> && CollectiveCommunicator<self_communicator>);
struct gathers_only : minimal_communicator {
  void all_gather(bytes_view, mutable_bytes, std::span<const std::size_t>, deadline);
};
static_assert(!CollectiveCommunicator<gathers_only>);
struct reduces_only : minimal_communicator {
  void reduce_scatter(std::span<const float>, std::span<float>, std::span<const std::size_t>, deadline);
};
static_assert(!CollectiveCommunicator<reduces_only>);
struct gathers_all_ranks_only : reduces_only {
  void all_gather(bytes_view, mutable_bytes, deadline);
};
static_assert(!CollectiveCommunicator<gathers_all_ranks_only>);
struct gathers_without_deadline : reduces_only {
  void all_gather(bytes_view, mutable_bytes, std::span<const std::size_t>);
};
static_assert(!CollectiveCommunicator<gathers_without_deadline>);
struct gather_returns_a_status : reduces_only {
  int all_gather(bytes_view, mutable_bytes, std::span<const std::size_t>, deadline);
};
static_assert(!CollectiveCommunicator<gather_returns_a_status>);
struct collects_alone {
  void all_gather(bytes_view, mutable_bytes, std::span<const std::size_t>, deadline);
  void reduce_scatter(std::span<const float>, std::span<float>, std::span<const std::size_t>, deadline);
};
static_assert(!CollectiveCommunicator<collects_alone>);
struct reduces_all_ranks_only : gathers_only {
  void reduce_scatter(std::span<const float>, std::span<float>, deadline);
};
static_assert(!CollectiveCommunicator<reduces_all_ranks_only>);
struct reduces_doubles : gathers_only {
  void reduce_scatter(std::span<const double>, std::span<double>, std::span<const std::size_t>, deadline);
};
static_assert(!CollectiveCommunicator<reduces_doubles>);
/// It may not spoil what it reads.
struct reduces_in_the_contribution : gathers_only {
  void reduce_scatter(std::span<float>, std::span<float>, std::span<const std::size_t>, deadline);
};
static_assert(!CollectiveCommunicator<reduces_in_the_contribution>);

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

struct alerting : minimal_communicator {
  bool interrupted();
};
static_assert(AlertingControl<alerting> && AlertingControl<threads_communicator>);
struct alerts_by_a_number : minimal_communicator {
  int interrupted();
};
static_assert(!AlertingControl<minimal_communicator> && !AlertingControl<alerts_by_a_number>);

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

/// The optional operations that `C` has, a bit for each.
template <class C>
constexpr unsigned optional_operations =
                       [] {
                         unsigned out = 0;
  for (const bool each : {requires(const C& comm) { comm.node_of(0);
                       },
                   requires(C& comm, expected_operations most) { comm.reserve(most); },
                   requires(C& comm, std::span<const std::size_t> group) { comm.start_viewed_broadcast({}, 0, group); },
                   requires(C& comm, typename C::token& token, deadline limit) { comm.view(token, limit); },
                   requires(C& comm) { comm.all_reduce_max(0); },
                   requires(C& comm, deadline limit) { comm.all_reduce_max(0, limit); },
                   requires(C& comm, mutable_bytes bytes, deadline limit) { comm.broadcast(bytes, 0, limit); },
                   requires(C& comm) { comm.connect(); }
}) {
    out = 2 * out + (each ? 1 : 0);
  }
return out;
}
();
template <class C>
constexpr bool is_transparent = [] {
  using F = faulty_communicator<C>;
  return Communicator<F> == Communicator<C> && ScatterCommunicator<F> == ScatterCommunicator<C> &&
         NonBlockingCommunicator<F> == NonBlockingCommunicator<C> && GroupCommunicator<F> == GroupCommunicator<C> &&
         CollectiveCommunicator<F> == CollectiveCommunicator<C> &&
         InterruptibleCommunicator<F> == InterruptibleCommunicator<C> && AlertingControl<F> == AlertingControl<C> &&
         FailableControl<F> == FailableControl<C> && optional_operations<F> == optional_operations<C>;
}();
static_assert(is_transparent<minimal_communicator> && is_transparent<scattering_communicator>);
static_assert(is_transparent<non_blocking_communicator> && is_transparent<half_blocking_communicator>);
static_assert(is_transparent<group_communicator> && is_transparent<collective_communicator>);
static_assert(is_transparent<interruptible_communicator> && is_transparent<reserving_communicator>);
static_assert(is_transparent<node_aware_communicator> && is_transparent<reducing_control>);
static_assert(is_transparent<failable_control> && is_transparent<alerting>);
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
