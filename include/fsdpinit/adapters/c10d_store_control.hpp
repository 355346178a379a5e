#pragma once

#include <fsdpinit/adapters/c10d_errors.hpp>
#include <fsdpinit/adapters/torch_first.hpp>
#include <fsdpinit/communicators/rank_group.hpp>
#include <fsdpinit/control/wire.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <torch/csrc/distributed/c10d/Store.hpp>

namespace fsdpinit {

/// Agreement over a c10d store (TCPStore, FileStore, HashStore): a control channel beside a process group, which goes on working
/// when that is broken.
///
/// A broadcast is one key that the others wait for; a reduction one key of each rank, which rank 0 collects, and one for the result:
/// O(N) messages at the store. Keys are deleted once every rank has gone past them. Used by one thread at a time.
///
/// Every rank makes its objects of one store and prefix in the same order: each has keys of its own, whatever those before it have
/// left there.
///
/// A rank that does not come is lost to all at once: the first whose deadline has passed waits a second more, for those that were
/// waiting elsewhere, and says in the store who is missing. Every other rank throws that same error then, and the object is of no
/// further use.
class c10d_store_control {
 public:
  /// `store` outlives it. \throws error{peer_lost} where the store is gone.
  c10d_store_control(c10d::Store& store, std::size_t rank, std::size_t size, std::string_view prefix = "fsdpinit")
      : store_(store), rank_(rank), size_(size) {
    asking("a new control channel", [&] {
      const auto epoch = static_cast<std::uint64_t>(store_.add(concat(prefix, "/made by ", rank), 1));
      prefix_ = concat(prefix, "/", epoch);
    });
  }

  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// \throws error{peer_lost} a second after the deadline, the same on every rank, naming the ranks that are missing and what
  /// `suspect` was told; or where the store is gone.
  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) {
    begin_operation();
    asking("a broadcast", [&] {
      if (rank_ == root) {
        set(operation_, buffer);
        return;
      }
      const std::vector<std::uint8_t> received = fetch(operation_, patience(limit), [&] { return std::vector{root}; });
      if (received.size() != buffer.size()) {
        throw error(errc::communication, "c10d",
                    concat("a broadcast of ", received.size(), " bytes where ", buffer.size(),
                           " were expected; do other users of the store use the prefix '", printable(prefix_), "'?"));
      }
      if (!received.empty()) {
        std::memcpy(buffer.data(), received.data(), received.size());
      }
    });
    stale_.push_back(operation_);
  }

  /// \throws as `broadcast`.
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit = deadline::never()) {
    begin_operation();
    asking("a reduction", [&] {
      set_part(value);
      const deadline last = patience(limit);
      suspicion_.reset();
      const auto missing = [&] { return ranks_without_part(); };
      if (rank_ != 0) {
        value = number_in(fetch(operation_, last, missing));
        return;
      }
      for (std::size_t rank = 1; rank < size_; ++rank) {
        value = std::max(value, number_in(fetch(part_of(rank), last, missing)));
      }
      set(operation_, std::as_bytes(std::span(&value, 1)));
      // All ranks are here, so that they have read what was written for earlier operations.
      for (const std::string& each : stale_) {
        store_.deleteKey(each);
      }
      for (std::size_t rank = 0; rank < size_; ++rank) {
        store_.deleteKey(part_of(rank));
      }
    });
    stale_.assign(1, operation_);
    return value;
  }

  /// This rank's data channel has lost a peer: see `Communicator`. Until the next reduction.
  void suspect(const error& cause) { suspicion_ = cause; }

 private:
  static constexpr double grace_seconds = 1;
  /// Pauses between two looks at the store: a tenth of the time that this rank has waited so far.
  static constexpr double shortest_pause_seconds = 5e-5;
  static constexpr double longest_pause_seconds = 0.1;
  static constexpr std::size_t most_causes = 4;

  void begin_operation() {
    if (over_) {
      throw error(*over_);
    }
    operation_ = concat(prefix_, "/", next_++);
  }
  [[nodiscard]] std::string part_of(std::size_t rank) const { return concat(operation_, "/", rank); }
  [[nodiscard]] std::string verdict_key() const { return concat(prefix_, "/lost"); }

  void set(const std::string& key, bytes_view bytes) {
    const auto* const begin = reinterpret_cast<const std::uint8_t*>(bytes.data());
    store_.set(key, std::vector<std::uint8_t>(begin, begin + bytes.size()));
  }
  /// The number, and behind it what this rank suspects.
  void set_part(std::uint64_t value) {
    std::string part(sizeof value, '\0');
    std::memcpy(part.data(), &value, sizeof value);
    if (suspicion_) {
      part += suspicion_->text();
    }
    set(part_of(rank_), std::as_bytes(std::span(part)));
  }
  [[nodiscard]] static std::uint64_t number_in(const std::vector<std::uint8_t>& bytes) {
    std::uint64_t value = 0;
    if (bytes.size() < sizeof value) {
      throw error(errc::communication, "c10d", "a reduction of something else; is the store used by another job too?");
    }
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }

  /// When this rank no longer waits for others.
  [[nodiscard]] deadline patience(deadline limit) const noexcept {
    const bool has_waited = suspicion_ && suspicion_->native_code() == ETIMEDOUT;
    return limit.in((has_waited ? 0 : limit.remaining()) + grace_seconds);
  }

  /// The bytes under `key`, once they are there. `missing()` are the ranks that have not come if they are not.
  template <class Missing>
  [[nodiscard]] std::vector<std::uint8_t> fetch(const std::string& key, deadline last, Missing&& missing) {
    const double begin = monotonic_seconds();
    while (!store_.check({key})) {
      const double waited = monotonic_seconds() - begin;
      if (waited > longest_pause_seconds && store_.check({verdict_key()})) {
        give_up();
      }
      static_cast<void>(last.ended());  // it looks; the others would not hear that this rank has gone
      if (last.passed()) {
        const std::vector<std::size_t> lost = missing();
        if (!store_.check({key})) {  // else they came just now
          judge(lost);
        }
      } else {
        pause(std::clamp(waited / 10, shortest_pause_seconds, longest_pause_seconds));
      }
    }
    return store_.get(key);
  }
  static void pause(double seconds) noexcept {
    const std::timespec length{.tv_sec = 0, .tv_nsec = static_cast<long>(seconds * 1e9)};
    nanosleep(&length, nullptr);
  }

  [[nodiscard]] std::vector<std::size_t> ranks_without_part() {
    std::vector<std::size_t> out;
    for (std::size_t rank = 0; rank < size_; ++rank) {
      if (!store_.check({part_of(rank)})) {
        out.push_back(rank);
      }
    }
    // Where all have come, the one that collects has not gone on.
    return out.empty() ? std::vector<std::size_t>{0} : out;
  }

  /// Says who is lost, unless another rank has. One of them does so for all.
  [[noreturn]] void judge(const std::vector<std::size_t>& lost) {
    const error mine = verdict(lost);
    if (store_.add(concat(verdict_key(), "/said"), 1) == 1) {
      set(verdict_key(), detail::encode(mine));
      over_ = mine;
    } else {
      for (const deadline end = deadline::after(grace_seconds); !end.passed() && !store_.check({verdict_key()});) {
        pause(0.01);
      }
      if (store_.check({verdict_key()})) {
        give_up();
      }
      over_ = mine;  // the one that was about to say so is lost too
    }
    throw error(*over_);
  }
  [[noreturn]] void give_up() {
    const std::vector<std::uint8_t> said = store_.get(verdict_key());
    over_ = detail::decode_error(std::as_bytes(std::span(said)));
    throw error(*over_);
  }

  [[nodiscard]] error verdict(const std::vector<std::size_t>& lost) {
    std::string text;
    std::size_t causes = 0;
    for (std::size_t rank = 0; rank < size_ && causes < most_causes; ++rank) {
      const std::string part = part_of(rank);
      if (store_.check({part})) {
        const std::vector<std::uint8_t> bytes = store_.get(part);
        if (bytes.size() > sizeof(std::uint64_t)) {
          text += concat("\n  rank ", rank, ": ", std::string(bytes.begin() + sizeof(std::uint64_t), bytes.end()));
          ++causes;
        }
      }
    }
    return detail::lost_ranks(lost, text);
  }

  template <class Fn>
  void asking(std::string_view what, Fn&& fn) {
    detail::translating_c10d(errc::peer_lost, errc::peer_lost, concat(what, " over the store did not come to an end"),
                             "look at what became of the store, which one rank or the launcher serves", fn);
  }

  c10d::Store& store_;
  std::size_t rank_;
  std::size_t size_;
  std::string prefix_;  // of this object alone
  std::uint64_t next_ = 0;
  std::string operation_;           // the key of the one that is under way
  std::vector<std::string> stale_;  // keys that all ranks have gone past after the next reduction
  std::optional<error> suspicion_;
  std::optional<error> over_;  // a peer is lost
};

}  // namespace fsdpinit
