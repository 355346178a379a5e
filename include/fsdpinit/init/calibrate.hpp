#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/payload_channel.hpp>
#include <fsdpinit/init/preflight.hpp>
#include <fsdpinit/init/source_in_use.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/plan/cluster.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

/// \file
/// The figures by which `cost_on` predicts, measured where the job runs.

namespace fsdpinit {

/// Equal on every rank but for the deadline; a difference is an error that names it.
struct calibration {
  std::size_t source_rank = 0;
  /// That each rank reads, copies and writes at a time; each is done six times. 32 MiB take a machine of 5 GB/s 0.1 s in all.
  std::uint64_t probe_bytes = 32 * mib;
  double deadline_seconds = default_deadline_seconds;  ///< how long a rank waits for its peers
};

namespace detail {

/// The probe of one rank, step by step, each of which ends in an agreement.
template <class Source, class Data, class Control>
class calibrator {
 public:
  calibrator(Source& source, channels<Data, Control> links, const calibration& how)
      : source_(source), links_(links), how_(how), channel_(links.data, how.deadline_seconds, stages_) {}

  [[nodiscard]] cluster run() {
    cluster out;
    require_equal_calls(links_.control, how_.deadline_seconds, [&] {
      require_equal_ranks(links_);
      require_valid({.source_rank = how_.source_rank, .deadline_seconds = how_.deadline_seconds},
                    links_.control.size());
      if (how_.probe_bytes == 0) {
        throw error(errc::invalid_argument, "probe_bytes", "must be above 0; 32 MiB measure well");
      }
      return concat("a calibration\nsource_rank ", how_.source_rank, "\nprobe_bytes ", how_.probe_bytes, "\n");
    });
    agreed([&] {
      count_nodes(out);
      piece_.emplace(host_memory(), smaller(how_.probe_bytes, 4 * mib));
      std::memset(piece_->data(), 1, piece_->size());
    });
    const bool all_read = open();
    host_rates rates;
    ranks_per_node_ = out.ranks_per_node;
    rates.touch = rate_of(true, [&](std::size_t) {
      touch();
      return how_.probe_bytes;
    });
    rates.copy = difference(rate_of(true,
                                    [&](std::size_t) {
                                      touch();
                                      copy();
                                      return how_.probe_bytes;
                                    }),
                            rates.touch);
    rates.read = rate_of(all_read, [&](std::size_t turn) { return read(turn); });
    rates.hand_over = seconds_per_broadcast(piece_->bytes().first(1));
    out.storage_bandwidth_per_node = rates.read.together;
    out.host_copy_bandwidth = rates.copy.together;
    if (out.nodes > 1) {
      out.nic_latency = rates.hand_over;
      out.nic_bandwidth = static_cast<double>(piece_->size()) / seconds_per_broadcast(piece_->bytes());
      out.storage_bandwidth = rates.read.together * static_cast<double>(out.nodes);
    }
    out.measured = rates;
    return out;
  }

 private:
  static constexpr std::size_t repetitions = 3;
  static constexpr std::size_t broadcasts = 32;
  using samples = std::array<double, repetitions>;

  template <class Fn>
  void agreed(Fn&& fn) {
    fsdpinit::agreed(links_.control, how_.deadline_seconds, std::forward<Fn>(fn));
  }
  /// The most of all ranks, of seconds or of seconds per byte: a positive double's bits grow with it.
  [[nodiscard]] double slowest(double seconds) {
    return std::bit_cast<double>(fsdpinit::all_reduce_max(links_.control, std::bit_cast<std::uint64_t>(seconds),
                                                          deadline::after(how_.deadline_seconds)));
  }
  [[nodiscard]] static double middle(samples of) {
    std::sort(of.begin(), of.end());
    return std::max(of[repetitions / 2], 1e-15);  // a clock that stood still
  }
  [[nodiscard]] bool is_source() const { return links_.control.rank() == how_.source_rank; }

  /// Nodes that have unlike numbers of ranks, or ranks that do not follow one another, count as one.
  void count_nodes(cluster& out) const {
    const std::size_t ranks = links_.control.size();
    out.ranks_per_node = ranks;
    if constexpr (NodeAwareCommunicator<Data>) {
      std::size_t nodes = 0;
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        nodes += links_.data.node_of(rank) == rank ? 1U : 0U;
      }
      bool even = nodes != 0 && ranks % nodes == 0;
      for (std::size_t rank = 0; even && rank < ranks; ++rank) {
        const std::size_t each = ranks / nodes;
        even = links_.data.node_of(rank) == rank / each * each;
      }
      if (even) {
        out.nodes = nodes;
        out.ranks_per_node = ranks / nodes;
      }
    }
  }

  /// \return whether every rank can read. \throws what the source rank meets, and what keeps others from it but that they cannot read.
  [[nodiscard]] bool open() {
    std::optional<error> unreadable;
    agreed([&] {
      unreadable = why_unreadable([&] {
        source_.open();
        total_bytes total;
        for (const tensor_descriptor& tensor : source_.get()->tensors()) {
          total.add(tensor.name, byte_size(tensor));
        }
        total_ = total.get();
        if constexpr (requires { source_.get()->readable(); }) {
          if (!source_.get()->readable()) {
            throw error(errc::io, "source", "it is on the source rank only");
          }
        }
      });
      if (unreadable && is_source()) {
        throw error(*unreadable);
      }
    });
    return fsdpinit::all_reduce_max(links_.control, unreadable ? 1 : 0, deadline::after(how_.deadline_seconds)) == 0;
  }

  /// Of the second of two things done one after the other, if `both` and the `first` are known. Where that is lost in noise, ten
  /// times as fast as the first.
  [[nodiscard]] static host_rate difference(const host_rate& both, const host_rate& first) {
    const auto seconds = [&](double host_rate::*which) {
      return std::max(1 / (both.*which) - 1 / (first.*which), 0.1 / (first.*which));
    };
    return {.alone = 1 / seconds(&host_rate::alone), .together = 1 / seconds(&host_rate::together)};
  }

  /// `work(turn)` says how many bytes it moved; turns of one rank are different.
  template <class Work>
  [[nodiscard]] host_rate rate_of(bool all_can, Work&& work) {
    samples alone{};
    samples together{};
    for (std::size_t i = 0; i < repetitions; ++i) {
      alone[i] = timed(is_source(), [&] { return work(2 * i); });
      together[i] = all_can ? timed(true, [&] { return work(2 * i + 1); }) : alone[i];
    }
    const double ranks = all_can ? static_cast<double>(ranks_per_node_) : 1;
    return {.alone = 1 / middle(alone), .together = ranks / middle(together)};
  }

  /// Seconds per byte until the last of those that take part is done, begun by all at once: where ranks share cores, one that is
  /// quick was quick because another waited.
  template <class Work>
  [[nodiscard]] double timed(bool takes_part, Work&& work) {
    std::uint64_t bytes = 1;
    agreed([&] {
      if (takes_part) {
        fresh_.emplace(host_memory(), how_.probe_bytes);
      }
    });
    const double began = monotonic_seconds();
    agreed([&] {
      if (takes_part) {
        bytes = std::max<std::uint64_t>(work(), 1);
      }
    });
    const double seconds = monotonic_seconds() - began;
    fresh_.reset();
    return slowest(takes_part ? seconds / static_cast<double>(bytes) : 0);
  }

  void touch() noexcept {
    constexpr std::uint64_t page_bytes = 4 * kib;
    for (std::uint64_t at = 0; at < fresh_->size(); at += page_bytes) {
      *static_cast<volatile std::byte*>(fresh_->data() + at) = std::byte{1};
    }
  }
  void copy() noexcept {
    for (std::uint64_t at = 0; at < fresh_->size(); at += piece_->size()) {
      std::memcpy(fresh_->data() + at, piece_->data(), smaller(piece_->size(), fresh_->size() - at));
    }
  }

  /// Each turn of each rank has bytes of its own, so that none finds in the page cache what another has left there.
  [[nodiscard]] std::uint64_t read(std::size_t turn) {
    const std::uint64_t parts = std::uint64_t{2} * repetitions * links_.control.size();
    const std::uint64_t begin = total_ / parts * (links_.control.rank() * 2 * repetitions + turn);
    const std::uint64_t end = begin + smaller(how_.probe_bytes, total_ / parts);
    if (begin == end) {
      copy();
      return how_.probe_bytes;
    }
    std::uint64_t tensor_begin = 0;
    for (std::size_t i = 0; i < source_.get()->tensors().size() && tensor_begin < end; ++i) {
      const std::uint64_t bytes = byte_size(source_.get()->tensors()[i]);
      const std::uint64_t last = std::clamp(end, tensor_begin, tensor_begin + bytes) - tensor_begin;
      std::uint64_t at = std::clamp(begin, tensor_begin, tensor_begin + bytes) - tensor_begin;
      while (at < last) {
        const std::uint64_t piece = smaller(piece_->size(), last - at);
        source_.get()->read(i, at, piece_->bytes().first(piece));
        at += piece;
      }
      tensor_begin += bytes;
    }
    return end - begin;
  }

  /// Two of them in flight, as buckets are.
  [[nodiscard]] double seconds_per_broadcast(mutable_bytes payload) {
    double seconds = 0;
    agreed([] {});
    agreed([&] {
      std::array<typename payload_channel<Data>::operation, 2> tokens;
      try {
        const double began = monotonic_seconds();
        for (std::size_t i = 0; i < broadcasts; ++i) {
          channel_.wait(tokens[i % 2]);
          channel_.start_broadcast(tokens[i % 2], payload, how_.source_rank, {});
        }
        channel_.wait(tokens[broadcasts % 2]);
        channel_.wait(tokens[(broadcasts + 1) % 2]);
        seconds = (monotonic_seconds() - began) / broadcasts;
      } catch (...) {
        const error cause = current_error();
        channel_.interrupt();  // no peer is left waiting, no operation in flight
        for (auto& token : tokens) {
          static_cast<void>(attempt([&] { channel_.wait(token); }));
        }
        throw cause;
      }
    });
    return std::max(slowest(seconds), 1e-9);
  }

  source_in_use<Source, host_memory> source_;
  channels<Data, Control> links_;
  const calibration& how_;
  stage_clock stages_;
  payload_channel<Data> channel_;
  std::uint64_t total_ = 0;  // bytes of the source
  std::size_t ranks_per_node_ = 1;
  std::optional<block<host_memory>> piece_;  // what is copied from, read into and broadcast
  std::optional<block<host_memory>> fresh_;  // for one measurement
};

}  // namespace detail

/// Measures, in a tenth of a second or so, what `cost_on` has to know of the place a job runs in: how fast a rank alone and all ranks of
/// a node together read this checkpoint as it is now (cached or not), copy, and write to fresh memory, and how long ranks take to
/// pass a bucket on; with several nodes what a broadcast between them comes to. Of each the median of three, at the pace of the
/// slowest rank; equal on every rank. Collective, over host memory; 4 MiB and, for a moment, `probe_bytes` on each rank.
///
/// \param source  What `initialize` would be given, but not `module_state`. Where only the source rank can read it, it is taken to
///                read for all.
/// \throws fsdpinit::error, the same on every rank.
template <class Source, class Channels>
[[nodiscard]] cluster calibrate(Source&& source, Channels&& links, const calibration& how = {}) {
  using given = std::remove_reference_t<Source>;
  static_assert(StateDictSource<given> || SourceOpener<given>,
                "fsdpinit: `source` must model StateDictSource or SourceOpener");
  static_assert(detail::AreLinks<Channels>, "fsdpinit: `links` must model Communicator, or be channels{data, control}");
  auto both = detail::channels_of(links);
  using data = std::remove_reference_t<decltype(both.data)>;
  using control = std::remove_reference_t<decltype(both.control)>;
  return detail::over(both.data, [&] { return detail::calibrator<given, data, control>(source, both, how).run(); });
}

}  // namespace fsdpinit
