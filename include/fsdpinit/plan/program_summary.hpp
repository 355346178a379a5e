#pragma once

#include <fsdpinit/plan/program.hpp>
#include <fsdpinit/plan/program_step.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

/// \file
/// A program in short: steps of a round that do alike are one, and rounds that do alike are told once.

namespace fsdpinit {

/// Steps of one round that do the same with other bytes. A scatter has the windows that its root sends with it.
struct step_summary {
  round_phase phase = round_phase::begin;
  step_kind kind = step_kind::agree;
  region_kind from = region_kind::none;
  region_kind to = region_kind::none;
  std::size_t rank = 0;  ///< root of a transfer, author of a checksum
  bool copies = false;   ///< a read or comparison of further stored copies
  bool viewable = false;
  std::vector<std::size_t> ranks{};  ///< those that a root sends to, ascending
  std::size_t steps = 0;
  std::uint64_t bytes = 0;       ///< of all steps; of a scatter's root all windows, of a broadcast's the payload once
  std::size_t first_region = 0;  ///< the lowest and the highest index of the region that is written to, or else read
  std::size_t last_region = 0;
  std::size_t first_tensor = 0;
  std::size_t last_tensor = 0;

  /// Does it name tensors?
  [[nodiscard]] bool has_tensor() const noexcept {
    return kind == step_kind::generate || kind == step_kind::read || kind == step_kind::read_buffer ||
           kind == step_kind::release || kind == step_kind::copy || kind == step_kind::place ||
           kind == step_kind::fetch || kind == step_kind::widen || kind == step_kind::compare;
  }
};

/// A round that was told, and how often it is done again.
struct repeated_round {
  std::size_t round = 0;
  std::size_t times = 0;
  friend bool operator==(const repeated_round&, const repeated_round&) = default;
};

/// A round, a bucket with the agreement that may follow it; or several, of which each does as one that was told before.
struct round_summary {
  std::size_t first = 0;  ///< numbers of rounds
  std::size_t last = 0;
  round_kind kind = round_kind::finish;  ///< of the first
  std::vector<step_summary> steps{};     ///< of a round that is told
  std::vector<repeated_round> as{};      ///< else: in the order in which they are first done again
  std::uint64_t read = 0;                ///< of all these rounds, in bytes
  std::uint64_t sent = 0;                ///< payload x destinations
  std::uint64_t received = 0;
  std::size_t agreements = 0;  ///< of all these rounds, that follow buckets
};

struct program_summary {
  std::size_t rank = 0;
  std::size_t rounds = 0;
  std::vector<program_region> regions{};
  std::vector<round_summary> summaries{};  ///< all rounds, in their order
};

namespace detail {

/// Sums up one round after the other.
class program_summariser {
 public:
  explicit program_summariser(program& of) : program_(of) {}

  program_summary run() {
    out_.rank = program_.rank();
    out_.regions.assign(program_.regions().begin(), program_.regions().end());
    for_each_round(program_, [&](const program_round& round) {
      ++out_.rounds;
      if (round.kind == round_kind::agree && !told_.empty() && told_.back().kind == round_kind::bucket) {
        told_.back().last = round.number;
        ++told_.back().agreements;
        return;
      }
      told_.push_back({.first = round.number, .last = round.number, .kind = round.kind});
      add_steps(round, told_.back());
      find_alike();
    });
    compress();
    return std::move(out_);
  }

 private:
  using step_key = std::tuple<round_phase, step_kind, region_kind, region_kind, std::size_t, bool, bool>;
  using round_key = std::vector<step_key>;

  [[nodiscard]] static step_key key_of(const step_summary& each) {
    return {each.phase, each.kind, each.from, each.to, each.rank, each.copies, each.viewable};
  }

  void add_steps(const program_round& round, round_summary& to) {
    for (const round_phase phase : {round_phase::begin, round_phase::pass_on, round_phase::end}) {
      std::vector<std::size_t> receivers;
      std::uint64_t windows = 0;
      region_position windows_from;
      program_.for_each_step(round, phase, [&](const program_step& each) {
        if (each.kind == step_kind::window) {
          for (std::uint64_t i = 0; i < each.count; ++i) {
            receivers.push_back(each.rank + i);
          }
          windows += each.total();
          windows_from = each.from;
          return;
        }
        step_summary one{.phase = phase,
                         .kind = each.kind,
                         .from = each.from.kind,
                         .to = each.to.kind,
                         .rank = each.rank,
                         .copies = each.copy != 0,
                         .viewable = each.viewable,
                         .steps = each.kind == step_kind::read ? each.count : 1,
                         .bytes = each.total(),
                         .first_region = each.to.kind == region_kind::none ? each.from.index : each.to.index,
                         .first_tensor = each.tensor,
                         .last_tensor = each.tensor};
        if (each.kind == step_kind::scatter && each.rank == program_.rank()) {
          one.from = windows_from.kind;
          one.first_region = windows_from.index;
          one.bytes = windows;
          one.ranks = std::exchange(receivers, {});
          to.sent += windows;
        } else if (each.kind == step_kind::broadcast && each.rank == program_.rank()) {
          one.ranks = others_in(each.group);
          to.sent += each.from.kind == region_kind::checksums ? 0 : each.bytes * one.ranks.size();
        } else if (each.kind == step_kind::scatter || each.kind == step_kind::broadcast) {
          to.received += each.to.kind == region_kind::checksums ? 0 : each.bytes;
        } else if (each.kind == step_kind::read) {
          to.read += each.total();
        }
        one.last_region = one.first_region;
        add(one, to.steps);
      });
    }
  }

  /// To the step that does alike, if there is one.
  static void add(const step_summary& one, std::vector<step_summary>& steps) {
    const auto alike =
        std::find_if(steps.begin(), steps.end(), [&](const step_summary& each) { return key_of(each) == key_of(one); });
    if (alike == steps.end()) {
      steps.push_back(one);
    } else {
      alike->steps += one.steps;
      alike->bytes += one.bytes;
      alike->first_region = std::min(alike->first_region, one.first_region);
      alike->last_region = std::max(alike->last_region, one.last_region);
      alike->first_tensor = std::min(alike->first_tensor, one.first_tensor);
      alike->last_tensor = std::max(alike->last_tensor, one.last_tensor);
    }
    if (one.kind == step_kind::copy) {  // of tensors that were read together, of which the read names the first
      for (step_summary& each : steps) {
        if (each.kind == step_kind::read && each.to == region_kind::scratch) {
          each.last_tensor = std::max(each.last_tensor, one.last_tensor);
        }
      }
    }
  }
  [[nodiscard]] std::vector<std::size_t> others_in(rank_group group) const {
    std::vector<std::size_t> out;
    const std::span<const std::size_t> listed = program_.ranks_of(group);
    for (std::size_t i = 0; i < program_.size_of(group); ++i) {
      const std::size_t rank = listed.empty() ? i : listed[i];
      if (rank != program_.rank()) {
        out.push_back(rank);
      }
    }
    return out;
  }

  /// Of a round that does as one before it the steps are forgotten.
  void find_alike() {
    round_key key;
    for (const step_summary& step : told_.back().steps) {
      if (step.kind != step_kind::release) {  // wherever the last byte of a tensor happens to be
        key.push_back(key_of(step));
      }
    }
    std::sort(key.begin(), key.end());
    const auto [known, is_new] = known_.try_emplace({told_.back().kind, std::move(key)}, told_.size() - 1);
    like_.push_back(known->second);
    first_round_.push_back(told_.back().first);
    if (!is_new) {
      told_.back().steps = {};
    }
  }

  /// Neighbours of which each does as one that was told become one.
  void compress() {
    for (std::size_t i = 0; i < told_.size(); ++i) {
      if (like_[i] == i) {
        out_.summaries.push_back(std::move(told_[i]));
        continue;
      }
      if (like_[i - 1] == i - 1) {
        out_.summaries.push_back({.first = told_[i].first, .kind = told_[i].kind});
      }
      round_summary& many = out_.summaries.back();
      many.last = told_[i].last;
      many.read += told_[i].read;
      many.sent += told_[i].sent;
      many.received += told_[i].received;
      many.agreements += told_[i].agreements;
      const std::size_t round = first_round_[like_[i]];
      const auto known =
          std::find_if(many.as.begin(), many.as.end(), [&](const repeated_round& each) { return each.round == round; });
      if (known == many.as.end()) {
        many.as.push_back({.round = round, .times = 1});
      } else {
        ++known->times;
      }
    }
  }

  program& program_;
  program_summary out_;
  std::vector<round_summary> told_;
  std::vector<std::size_t> like_;         // by round told: the first that does alike
  std::vector<std::size_t> first_round_;  // by round told: its number
  std::map<std::pair<round_kind, round_key>, std::size_t> known_;
};

}  // namespace detail

/// O(all steps), and some bytes per round.
[[nodiscard]] inline program_summary summary_of(program& of) { return detail::program_summariser(of).run(); }

}  // namespace fsdpinit
