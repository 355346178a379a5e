#pragma once

#include <fsdpinit/adapters/c10d_errors.hpp>
#include <fsdpinit/adapters/torch_first.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <torch/csrc/distributed/c10d/Store.hpp>

namespace fsdpinit {

/// Agreement over a c10d store (TCPStore, FileStore, HashStore): a control channel beside a process group, which goes on working
/// when that is broken. One per job and store, or with a `prefix` of its own.
///
/// A broadcast is one key that the others wait for; a reduction one key of each rank, which rank 0 collects, and one for the result:
/// O(N) messages at the store. Keys are deleted once every rank has gone past them. Used by one thread at a time.
class c10d_store_control {
 public:
  /// `store` outlives it.
  c10d_store_control(c10d::Store& store, std::size_t rank, std::size_t size, std::string_view prefix = "fsdpinit")
      : store_(store), rank_(rank), size_(size), prefix_(prefix) {}

  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// \throws error{peer_lost} once the deadline has passed, or where the store is gone.
  void broadcast(mutable_bytes buffer, std::size_t root, deadline limit = deadline::never()) {
    const std::string key = next_key();
    asking("broadcast", [&] {
      if (rank_ == root) {
        store_.set(key, std::vector<std::uint8_t>(as_numbers(buffer), as_numbers(buffer) + buffer.size()));
        return;
      }
      const std::vector<std::uint8_t> received = fetch(key, limit);
      if (received.size() != buffer.size()) {
        throw error(errc::communication, "c10d",
                    concat("a broadcast of ", received.size(), " bytes where ", buffer.size(),
                           " were expected; do other users of the store use the prefix '", printable(prefix_), "'?"));
      }
      if (!received.empty()) {
        std::memcpy(buffer.data(), received.data(), received.size());
      }
    });
    stale_.push_back(key);
  }

  /// \throws as `broadcast`.
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, deadline limit = deadline::never()) {
    const std::string key = next_key();
    const auto key_of = [&](std::size_t rank) { return concat(key, "/", rank); };
    asking("reduction", [&] {
      if (rank_ != 0) {
        store_.set(key_of(rank_), encoded(value));
        value = decoded(fetch(key, limit));
        return;
      }
      for (std::size_t rank = 1; rank < size_; ++rank) {
        value = std::max(value, decoded(fetch(key_of(rank), limit)));
      }
      store_.set(key, encoded(value));
      // All ranks are here, so that they have read what was written for earlier operations.
      for (const std::string& each : stale_) {
        store_.deleteKey(each);
      }
      for (std::size_t rank = 1; rank < size_; ++rank) {
        store_.deleteKey(key_of(rank));
      }
    });
    stale_.assign(1, key);
    return value;
  }

 private:
  [[nodiscard]] static const std::uint8_t* as_numbers(mutable_bytes bytes) noexcept {
    return reinterpret_cast<const std::uint8_t*>(bytes.data());
  }
  [[nodiscard]] static std::vector<std::uint8_t> encoded(std::uint64_t value) {
    std::vector<std::uint8_t> out(sizeof value);
    std::memcpy(out.data(), &value, sizeof value);
    return out;
  }
  [[nodiscard]] static std::uint64_t decoded(const std::vector<std::uint8_t>& bytes) {
    std::uint64_t value = 0;
    if (bytes.size() != sizeof value) {
      throw error(errc::communication, "c10d", "a reduction of something else; is the store used by another job too?");
    }
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }

  [[nodiscard]] std::string next_key() { return concat(prefix_, "/", next_++); }
  [[nodiscard]] std::vector<std::uint8_t> fetch(const std::string& key, deadline limit) {
    store_.wait({key}, detail::milliseconds_left(limit));
    return store_.get(key);
  }
  template <class Fn>
  void asking(std::string_view what, Fn&& fn) {
    detail::translating_c10d(errc::peer_lost, errc::peer_lost,
                             concat("a ", what, " over the store did not come to an end"),
                             "look at what the other ranks do, or raise deadline_seconds", fn);
  }

  c10d::Store& store_;
  std::size_t rank_;
  std::size_t size_;
  std::string prefix_;
  std::uint64_t next_ = 0;
  std::vector<std::string> stale_;  // keys that all ranks have gone past after the next reduction
};

}  // namespace fsdpinit
