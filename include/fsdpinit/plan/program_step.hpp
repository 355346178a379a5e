#pragma once

#include <fsdpinit/core/compiler.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

/// \file
/// What programs are made of: rounds, and the steps of a round. \see program.hpp

namespace fsdpinit {

enum class round_kind : std::uint8_t {
  generate,  ///< parts of tensors that the source does not have
  load,      ///< a turn of reading everything, where every rank loads the whole model
  keep,      ///< each rank's part of that
  bucket,
  agree,    ///< ranks hear of each other's failures
  reread,   ///< a turn of reading everything again
  compare,  ///< of what several ranks have read: is what each rank holds what its peer has read again?
  finish,   ///< what has travelled narrow becomes wide
};

[[nodiscard]] constexpr std::string_view name(round_kind kind) noexcept {
  switch (kind) {
    case round_kind::generate:
      return "generate";
    case round_kind::load:
      return "load";
    case round_kind::keep:
      return "keep";
    case round_kind::bucket:
      return "bucket";
    case round_kind::agree:
      return "agree";
    case round_kind::reread:
      return "reread";
    case round_kind::compare:
      return "compare";
    case round_kind::finish:
      return "finish";
  }
  return "unknown";
}

enum class round_phase : std::uint8_t { begin, pass_on, end };

[[nodiscard]] constexpr std::string_view name(round_phase phase) noexcept {
  return phase == round_phase::begin ? "begin" : phase == round_phase::pass_on ? "pass-on" : "end";
}

/// The same on every rank. A value: a few of them are all that an interpreter keeps of the rounds in flight.
struct program_round {
  round_kind kind = round_kind::finish;
  std::size_t number = 0;  ///< of all rounds
  std::size_t part = 0;    ///< of a bucket, or a turn, its index; of an agreement how many buckets were before it
  std::size_t slot = 0;    ///< of a bucket
  std::uint64_t unheard =
      0;  ///< of a bucket: bytes of this and those before it that ranks have read without a word to each other
  std::size_t unagreed = 0;  ///< of a bucket: how many there are since the last agreement, with this one
  friend bool operator==(const program_round&, const program_round&) = default;
};

/// Memory of one rank that a program works in. All of it is there before the first round.
enum class region_kind : std::uint8_t {
  none,
  slab,       ///< a unit's shards, in the module's memory space
  slot,       ///< staging of one bucket in flight, in host memory, as all below
  checksums,  ///< of the bucket in the slot of the same index
  scratch,
  tiles,      ///< where a source puts tensors together, for all threads that read
  full_copy,  ///< the whole model, where every rank reads everything
  peer_sums,  ///< a checksum per tensor: [0] of what this rank holds, [1] of what it reads again for its peer
};
inline constexpr std::size_t region_kinds = 8;

struct program_region {
  region_kind kind = region_kind::none;
  std::size_t index = 0;    ///< among those of its kind
  std::uint64_t bytes = 0;  ///< its size
  friend bool operator==(const program_region&, const program_region&) = default;
};

struct region_position {
  region_kind kind = region_kind::none;
  std::size_t index = 0;
  std::uint64_t offset = 0;  ///< in bytes
  friend bool operator==(const region_position&, const region_position&) = default;
  friend constexpr region_position operator+(region_position at, std::uint64_t bytes) noexcept {
    at.offset += bytes;
    return at;
  }
};

/// Which ranks take part in a transfer; `program::ranks_of` lists them.
enum class rank_group : std::uint8_t {
  all,
  served,   ///< those that one source reads for
  scatter,  ///< those in the scatters of one source; a rank alone, which moves nothing, where its part is relayed to it
  replicas,  ///< those that hold the same shard
};

/// What one step does; the operands that are not named mean nothing to it. program.hpp says who executes it.
enum class step_kind : std::uint8_t {
  generate,  ///< makes `bytes` of this rank's part of `tensor`, which is not in the source, at `to`
  read,  ///< `count` requests of `bytes`: at `at` and every `stride` after it -> `to` and every `apart` after it; `wanted` are payload
  read_buffer,  ///< takes `bytes` of the module's own value of `tensor`, from `at.offset` on -> `to`
  release,      ///< the source may let go of `tensor`
  copy,         ///< `count` runs of `bytes`, `stride` apart from `from` on -> `to`, one after the other
  place,        ///< likewise into a slab
  fetch,        ///< `bytes` of a slab -> `to`, where the host may not touch slabs
  widen,  ///< `count` floats of `bytes` each, `narrow` at `from` -> `wide` at `to`; front to back, as they may overlap
  window,  ///< `count` ranks from `rank` on get `bytes` each of the scatter that is started next, from `from` on, `stride` apart
  scatter,     ///< starts a scatter from rank `rank` in `group`; a receiver gets `bytes` at `to`
  broadcast,   ///< starts a broadcast of `bytes` from `from` of rank `rank` to `to` of all others in `group`
  clear_sums,  ///< says of `bytes` of checksums at `to` that there are none, in case the bucket is not read after all
  start_sum,   ///< begins the running checksum `sum` with `seed`
  hash,        ///< adds `count` runs of `bytes`, `stride` apart from `from` on, to the running checksum `sum`
  store_sum,   ///< writes the running checksum `sum`, 8 bytes, to `to`
  check_sum,  ///< compares it with the 8 bytes at `from`, if there are any, made by rank `rank`; without `from`, with the other one
  compare,  ///< `bytes` at `from` are those at `to`: a further stored copy (`copy`), or what was read again, of this rank's part from `at.offset` on
  compare_sums,  ///< the peer sums at `from`, of what this rank holds, are those that rank `rank` has at `to`; so for every rank
  agree,  ///< goes on where no rank has failed
};

[[nodiscard]] constexpr std::string_view name(step_kind kind) noexcept {
  switch (kind) {
    case step_kind::generate:
      return "generate";
    case step_kind::read:
      return "read";
    case step_kind::read_buffer:
      return "read-buffer";
    case step_kind::release:
      return "release";
    case step_kind::copy:
      return "copy";
    case step_kind::place:
      return "place";
    case step_kind::fetch:
      return "fetch";
    case step_kind::widen:
      return "widen";
    case step_kind::window:
      return "window";
    case step_kind::scatter:
      return "scatter";
    case step_kind::broadcast:
      return "broadcast";
    case step_kind::clear_sums:
      return "clear-sums";
    case step_kind::start_sum:
      return "start-sum";
    case step_kind::hash:
      return "hash";
    case step_kind::store_sum:
      return "store-sum";
    case step_kind::check_sum:
      return "check-sum";
    case step_kind::compare:
      return "compare";
    case step_kind::compare_sums:
      return "compare-sums";
    case step_kind::agree:
      return "agree";
  }
  return "unknown";
}

[[nodiscard]] constexpr std::string_view name(region_kind kind) noexcept {
  switch (kind) {
    case region_kind::none:
      return "none";
    case region_kind::slab:
      return "slab";
    case region_kind::slot:
      return "slot";
    case region_kind::checksums:
      return "checksums";
    case region_kind::scratch:
      return "scratch";
    case region_kind::tiles:
      return "tiles";
    case region_kind::full_copy:
      return "full-copy";
    case region_kind::peer_sums:
      return "peer-sums";
  }
  return "unknown";
}

/// One step of one rank. Sizes are in bytes.
struct program_step {
  step_kind kind = step_kind::agree;
  rank_group group = rank_group::all;
  bool viewable = false;  ///< of a broadcast: this rank may look at the bytes where they arrive, rather than at `to`
  std::uint8_t sum = 0;   ///< which of two running checksums
  dtype narrow = dtype::f32;
  dtype wide = dtype::f32;
  std::size_t tensor = 0;  ///< planned tensor; of a read, or a check, of several the first
  std::size_t copy = 0;    ///< under which name a tensor is read that the source stores several times; 0: the first
  std::size_t rank = 0;    ///< root of a transfer, destination of a window, author of a checksum
  region_position from{};
  region_position to{};
  /// Of a read: a file and an offset in it, or (`tensor_of_file`) a tensor whose place in files is not known and an offset in that.
  file_position at{};
  std::uint64_t bytes = 0;
  std::uint64_t stride = 0;
  std::uint64_t count = 1;
  std::uint64_t apart = 0;
  std::uint64_t wanted = 0;
  std::uint64_t seed = 0;

  [[nodiscard]] constexpr std::uint64_t total() const noexcept { return bytes * count; }
  friend bool operator==(const program_step&, const program_step&) = default;
};

/// Calls `fn` with each request of a read, and each window, as a step of its own; with any other step as it is.
template <class Fn>
void for_each_single(const program_step& each, Fn&& fn) {
  if (each.count == 1 || (each.kind != step_kind::read && each.kind != step_kind::window)) {
    fn(each);
    return;
  }
  program_step single = each;
  single.count = 1;
  single.stride = 0;
  single.apart = 0;
  single.wanted = each.wanted / each.count;
  for (std::uint64_t i = 0; i < each.count; ++i) {
    if (each.kind == step_kind::read) {
      single.at.offset = each.at.offset + i * each.stride;
      single.to.offset = each.to.offset + i * each.apart;
    } else {
      single.rank = each.rank + i;
      single.from.offset = each.from.offset + i * each.stride;
    }
    fn(single);
  }
}

/// Refers to a function of a step, which must outlive it: one indirect call per step, and no allocation.
class step_visitor {
 public:
  template <class Fn>
    requires(!std::same_as<std::remove_cvref_t<Fn>, step_visitor> && std::invocable<Fn&, const program_step&>)
  // NOLINTNEXTLINE(google-explicit-constructor,bugprone-forwarding-reference-overload): a parameter that takes any function
  step_visitor(Fn&& fn) noexcept
      : function_(const_cast<void*>(static_cast<const void*>(&fn))),
        call_([](void* function, const program_step& each) {
          (*static_cast<std::remove_reference_t<Fn>*>(function))(each);
        }) {}

  void operator()(const program_step& each) const { call_(function_, each); }

 private:
  void* function_;
  void (*call_)(void*, const program_step&);
};

/// Sees each step on its way from a program to whoever carries it out, and passes it on, or another, or none. By this a test shows
/// that there is no step which nobody would miss.
class step_tap {
 public:
  virtual void pass(const program_step& each, step_visitor to) = 0;

 protected:
  step_tap() = default;
  step_tap(const step_tap&) = default;
  step_tap& operator=(const step_tap&) = default;
  ~step_tap() = default;
};

}  // namespace fsdpinit
