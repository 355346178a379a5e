#pragma once

#include <fsdpinit/concepts/control_ref.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/cost/calibrate.hpp>
#include <fsdpinit/cost/cluster.hpp>
#include <fsdpinit/engine/payload_channel.hpp>
#include <fsdpinit/engine/payload_link.hpp>
#include <fsdpinit/init/arguments.hpp>
#include <fsdpinit/init/preflight.hpp>
#include <fsdpinit/init/source_in_use.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/sources/source_ref.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

namespace fsdpinit::detail {

/// The probe of one rank, step by step, each of which ends in an agreement.
class calibrator {
 public:
  calibrator(source_in_use& source, payload_link& data, control_ref control, const calibration& how)
      : opener_(source), data_(data), control_(control), how_(how), channel_(data, how.deadline_seconds, stages_) {}

  [[nodiscard]] cluster run() {
    cluster out;
    require_equal_calls(control_, how_.deadline_seconds, [&] {
      require_equal_ranks(data_, control_);
      require_valid({.source_rank = how_.source_rank, .deadline_seconds = how_.deadline_seconds}, control_.size());
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
    fsdpinit::agreed(control_, how_.deadline_seconds, std::forward<Fn>(fn));
  }
  /// The most of all ranks, of seconds or of seconds per byte: a positive double's bits grow with it.
  [[nodiscard]] double slowest(double seconds) {
    return std::bit_cast<double>(fsdpinit::all_reduce_max(control_, std::bit_cast<std::uint64_t>(seconds),
                                                          deadline::after(how_.deadline_seconds)));
  }
  [[nodiscard]] static double middle(samples of) {
    std::sort(of.begin(), of.end());
    return std::max(of[repetitions / 2], 1e-15);  // a clock that stood still
  }
  [[nodiscard]] bool is_source() const { return control_.rank() == how_.source_rank; }

  /// Nodes that have unlike numbers of ranks, or ranks that do not follow one another, count as one.
  void count_nodes(cluster& out) const {
    const std::size_t ranks = control_.size();
    out.ranks_per_node = ranks;
    if (data_.can().knows_nodes) {
      std::size_t nodes = 0;
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        nodes += data_.node_of(rank) == rank ? 1U : 0U;
      }
      bool even = nodes != 0 && ranks % nodes == 0;
      for (std::size_t rank = 0; even && rank < ranks; ++rank) {
        const std::size_t each = ranks / nodes;
        even = data_.node_of(rank) == rank / each * each;
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
        source_.emplace(opener_.open());
        total_bytes total;
        for (const tensor_descriptor& tensor : source_->tensors()) {
          total.add(tensor.name, byte_size(tensor));
        }
        total_ = total.get();
        if (!source_->readable()) {
          throw error(errc::io, "source", "it is on the source rank only");
        }
      });
      if (unreadable && is_source()) {
        throw error(*unreadable);
      }
    });
    return fsdpinit::all_reduce_max(control_, unreadable ? 1 : 0, deadline::after(how_.deadline_seconds)) == 0;
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
    const std::uint64_t parts = std::uint64_t{2} * repetitions * control_.size();
    const std::uint64_t begin = total_ / parts * (control_.rank() * 2 * repetitions + turn);
    const std::uint64_t end = begin + smaller(how_.probe_bytes, total_ / parts);
    if (begin == end) {
      copy();
      return how_.probe_bytes;
    }
    std::uint64_t tensor_begin = 0;
    for (std::size_t i = 0; i < source_->tensors().size() && tensor_begin < end; ++i) {
      const std::uint64_t bytes = byte_size(source_->tensors()[i]);
      const std::uint64_t last = std::clamp(end, tensor_begin, tensor_begin + bytes) - tensor_begin;
      std::uint64_t at = std::clamp(begin, tensor_begin, tensor_begin + bytes) - tensor_begin;
      while (at < last) {
        const std::uint64_t piece = smaller(piece_->size(), last - at);
        source_->read(i, at, piece_->bytes().first(piece));
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
      constexpr std::size_t in_flight = 2;
      try {
        channel_.reserve(in_flight, {.in_flight = in_flight, .peers = control_.size(), .bytes = payload.size()});
        const double began = monotonic_seconds();
        for (std::size_t i = 0; i < broadcasts; ++i) {
          channel_.wait(i % in_flight);
          channel_.start_broadcast(i % in_flight, payload, how_.source_rank, {});
        }
        channel_.wait(broadcasts % in_flight);
        channel_.wait((broadcasts + 1) % in_flight);
        seconds = (monotonic_seconds() - began) / broadcasts;
      } catch (...) {
        const error cause = current_error();
        channel_.interrupt();  // no peer is left waiting, no operation in flight
        for (std::size_t i = 0; i < in_flight; ++i) {
          static_cast<void>(attempt([&] { channel_.wait(i); }));
        }
        throw cause;
      }
    });
    return std::max(slowest(seconds), 1e-9);
  }

  source_in_use& opener_;
  payload_link& data_;
  control_ref control_;
  const calibration& how_;
  stage_clock stages_;
  payload_channel channel_;
  std::optional<source_ref> source_;  // on ranks that can read
  std::uint64_t total_ = 0;           // bytes of the source
  std::size_t ranks_per_node_ = 1;
  std::optional<block<host_memory>> piece_;  // what is copied from, read into and broadcast
  std::optional<block<host_memory>> fresh_;  // for one measurement
};

/// The whole of it.
FSDPINIT_INLINE cluster run_calibration(source_in_use& source, payload_link& data, control_ref control,
                                        const calibration& how) {
  return over(data, nullptr, [&] { return calibrator(source, data, control, how).run(); });
}

}  // namespace fsdpinit::detail
