#pragma once

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/memory_ref.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/memory/host_memory.hpp>

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace fsdpinit::detail {

/// What a data communicator can do beyond broadcasts.
struct link_abilities {
  bool scatters = false;
  bool groups = false;       ///< operations among groups of ranks
  bool views = false;        ///< broadcasts that are looked at where they lie
  bool interrupts = false;   ///< a rank that fails reaches ranks that wait
  bool knows_nodes = false;  ///< `node_of`
};

/// A data communicator of any type. Started operations have numbers, and stay here until they are waited for: what the communicator calls
/// its tokens. One indirect call for each.
class payload_link {
 public:
  payload_link(const payload_link&) = delete;
  payload_link& operator=(const payload_link&) = delete;

  [[nodiscard]] const link_abilities& can() const noexcept { return can_; }
  [[nodiscard]] virtual std::size_t rank() const = 0;
  [[nodiscard]] virtual std::size_t size() const = 0;
  /// \pre can().knows_nodes
  [[nodiscard]] virtual std::size_t node_of(std::size_t rank) const = 0;

  /// May it send from and receive into the space?
  [[nodiscard]] virtual bool accesses(const memory_ref& space) const noexcept = 0;
  /// Where buckets lie while they travel: memory that the communicator's peers can copy from, in the account of `host`, if it has such.
  /// \throws std::bad_alloc, what copying a space throws
  [[nodiscard]] virtual memory_ref slots(const memory_ref& host) const = 0;

  /// Room for operations 0 to `operations` - 1, and what the communicator makes of the rest: none of them allocates later.
  /// \throws std::bad_alloc
  virtual void reserve(std::size_t operations, const expected_operations& most) = 0;

  /// Operation `which` begins; without non-blocking ones it is over when this returns. Among all ranks where `group` is empty.
  virtual void start_broadcast(std::size_t which, mutable_bytes bytes, std::size_t root,
                               std::span<const std::size_t> group) = 0;
  virtual void start_scatter(std::size_t which, std::span<const bytes_view> windows, mutable_bytes own,
                             std::size_t root, std::span<const std::size_t> group) = 0;
  /// \pre can().views, of this and the next
  virtual void start_viewed_broadcast(std::size_t which, mutable_bytes bytes, std::size_t root,
                                      std::span<const std::size_t> group) = 0;
  /// Where the bytes are that a viewed broadcast has brought, until `wait`.
  [[nodiscard]] virtual bytes_view view(std::size_t which, deadline limit) = 0;
  /// \pre it was started, and not waited for. \throws what the communicator throws
  virtual void wait(std::size_t which, deadline limit) = 0;

  // Each does nothing where the communicator has no such thing.
  virtual void look_with(wait_hook* hook) noexcept = 0;
  virtual void connect() = 0;
  virtual void interrupt() noexcept = 0;
  virtual void rearm() noexcept = 0;
  /// May buffers of operations that were in flight still be read and written?
  [[nodiscard]] virtual bool poisoned() const noexcept = 0;

 protected:
  explicit payload_link(const link_abilities& can) noexcept : can_(can) {}
  ~payload_link() = default;

 private:
  link_abilities can_;
};

template <class Data>
concept ViewingCommunicator =
    requires(Data& data, typename Data::token& token, deadline limit) { data.view(token, limit); };
template <class Data>
concept NodeAwareCommunicator = requires(const Data& data, std::size_t rank) { data.node_of(rank); };

template <class Data>
inline constexpr link_abilities abilities_of{.scatters = ScatterCommunicator<Data> || GroupCommunicator<Data>,
                                             .groups = GroupCommunicator<Data>,
                                             .views = ViewingCommunicator<Data>,
                                             .interrupts = InterruptibleCommunicator<Data>,
                                             .knows_nodes = NodeAwareCommunicator<Data>};

/// A token of nothing: what blocking operations leave behind.
struct finished_token {};

template <class Data>
struct token_of {
  using type = finished_token;
};
template <NonBlockingCommunicator Data>
struct token_of<Data> {
  using type = typename Data::token;
};

/// One of type `Data`, to which it refers.
template <Communicator Data>
class payload_link_of final : public payload_link {
 public:
  explicit payload_link_of(Data& data) noexcept : payload_link(abilities_of<Data>), data_(data) {}

  [[nodiscard]] std::size_t rank() const override { return data_.rank(); }
  [[nodiscard]] std::size_t size() const override { return data_.size(); }
  [[nodiscard]] std::size_t node_of([[maybe_unused]] std::size_t rank) const override {
    if constexpr (abilities_of<Data>.knows_nodes) {
      return data_.node_of(rank);
    } else {
      return 0;
    }
  }

  [[nodiscard]] bool accesses(const memory_ref& space) const noexcept override {
    if constexpr (requires { typename Data::device_memory; }) {
      if (space.is<typename Data::device_memory>()) {
        return true;
      }
    }
    return space.host_accessible();
  }
  [[nodiscard]] memory_ref slots(const memory_ref& host) const override {
    if constexpr (StagingCommunicator<Data, host_memory>) {
      if (const host_memory* const plain = host.plain_host_memory()) {
        return memory_ref(data_.staging(*plain));
      }
    }
    return host;
  }

  void reserve(std::size_t operations, [[maybe_unused]] const expected_operations& most) override {
    tokens_.resize(operations);
    if constexpr (requires { data_.reserve(most); }) {
      data_.reserve(most);
    }
  }

  void start_broadcast([[maybe_unused]] std::size_t which, mutable_bytes bytes, std::size_t root,
                       [[maybe_unused]] std::span<const std::size_t> group) override {
    if constexpr (GroupCommunicator<Data>) {
      tokens_[which] = data_.start_broadcast(bytes, root, group);
    } else if constexpr (NonBlockingCommunicator<Data>) {
      tokens_[which] = data_.start_broadcast(bytes, root);
    } else {
      data_.broadcast(bytes, root);
    }
  }
  void start_scatter([[maybe_unused]] std::size_t which, [[maybe_unused]] std::span<const bytes_view> windows,
                     [[maybe_unused]] mutable_bytes own, [[maybe_unused]] std::size_t root,
                     [[maybe_unused]] std::span<const std::size_t> group) override {
    if constexpr (GroupCommunicator<Data>) {
      tokens_[which] = data_.start_scatter(windows, own, root, group);
    } else if constexpr (ScatterCommunicator<Data>) {
      data_.scatter(windows, own, root);
    }
  }
  void start_viewed_broadcast([[maybe_unused]] std::size_t which, [[maybe_unused]] mutable_bytes bytes,
                              [[maybe_unused]] std::size_t root,
                              [[maybe_unused]] std::span<const std::size_t> group) override {
    if constexpr (abilities_of<Data>.views) {
      tokens_[which] = data_.start_viewed_broadcast(bytes, root, group);
    }
  }
  [[nodiscard]] bytes_view view([[maybe_unused]] std::size_t which, [[maybe_unused]] deadline limit) override {
    if constexpr (abilities_of<Data>.views) {
      return data_.view(*tokens_[which], limit);
    } else {
      return {};
    }
  }
  void wait([[maybe_unused]] std::size_t which, [[maybe_unused]] deadline limit) override {
    if constexpr (NonBlockingCommunicator<Data>) {
      if (tokens_[which]) {  // not of a blocking operation, which some communicators have beside others
        auto started = std::move(*tokens_[which]);
        tokens_[which].reset();
        data_.wait(started, limit);
      }
    }
  }

  void look_with([[maybe_unused]] wait_hook* hook) noexcept override {
    if constexpr (requires { data_.look_with(hook); }) {
      data_.look_with(hook);
    }
  }
  void connect() override {
    if constexpr (requires { data_.connect(); }) {
      data_.connect();
    }
  }
  void interrupt() noexcept override {
    if constexpr (InterruptibleCommunicator<Data>) {
      data_.interrupt();
    }
  }
  void rearm() noexcept override {
    if constexpr (InterruptibleCommunicator<Data>) {
      data_.rearm();
    }
  }
  [[nodiscard]] bool poisoned() const noexcept override {
    if constexpr (requires { data_.poisoned(); }) {
      return data_.poisoned();
    } else {
      return false;
    }
  }

 private:
  Data& data_;
  std::vector<std::optional<typename token_of<Data>::type>> tokens_;
};

/// Where a peer was lost in mid-operation the communicator may go on using what it was given: those buffers are moved away and
/// never given back. Does nothing otherwise.
template <class... Buffers>
void retain_if_lost(const payload_link& data, Buffers&... buffers) noexcept {
  if (data.poisoned()) {
    try {
      (static_cast<void>(std::make_unique<Buffers>(std::move(buffers)).release()), ...);
    } catch (...) {
      std::abort();  // no memory to keep memory with: better than to let it be written to by chance
    }
  }
}

}  // namespace fsdpinit::detail
