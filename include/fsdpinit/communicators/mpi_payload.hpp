#pragma once

#include <fsdpinit/communicators/mpi_handles.hpp>
#include <fsdpinit/communicators/mpi_link.hpp>
#include <fsdpinit/communicators/mpi_window.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include <mpi.h>

namespace fsdpinit::detail {

/// The started operations of one rank.
///
/// A payload reaches a rank of the root's node through the window: the root says where it lies, the rank copies it from
/// there. Other ranks get messages: of a scatter from the root itself, of a broadcast along a binomial tree. A message is sent
/// only once its receiver has said that the receive is posted (the credit): nothing is ever buffered on the way, and
/// after an interruption each side knows what is still to come.
class mpi_payload {
 public:
  struct operation {
    std::uint64_t number = 0;
    std::size_t root = 0;
    bool scatter = false;
    bool live = false;
    std::span<const bytes_view> windows;  // at the root of a scatter
    mutable_bytes buffer;

    enum class state : std::uint8_t { awaits_lane, awaits_message, here, mismatched };
    state arrival = state::here;
    std::uint64_t sent_bytes = 0;  // if mismatched
    std::size_t parent = 0;
    std::vector<MPI_Request> receives;

    std::vector<std::size_t> lanes;     // receivers that copy from the window
    std::vector<std::size_t> children;  // receivers that get messages from this rank
    std::vector<MPI_Request> credits;   // of each child; null once it came
    std::vector<char> issued;           // to each child
    std::vector<MPI_Request> sends;
  };

  mpi_payload(mpi_link& link, mpi_window& window) noexcept : link_(link), window_(window) {}

  operation* start(bool scatter, std::span<const bytes_view> windows, mutable_bytes buffer, std::size_t root) {
    operation& made = free_operation();
    reserve(made, scatter, windows, buffer, root);
    made.number = next_++;
    made.root = root;
    made.scatter = scatter;
    made.windows = windows;
    made.buffer = buffer;
    made.live = true;
    made.arrival = operation::state::here;
    made.sent_bytes = 0;
    active_.push_back(&made);
    if (root == link_.rank()) {
      send_to_node(made);
      if (scatter) {
        for (std::size_t peer = 0; peer < link_.size(); ++peer) {
          if (!window_.together(peer, root)) {
            add_child(made, peer);
          }
        }
      }
    } else if (window_.together(link_.rank(), root)) {
      made.arrival = operation::state::awaits_lane;
    } else if (scatter) {
      receive_from(made, root);
    }
    if (!scatter) {
      join_tree(made);
    }
    progress();
    return &made;
  }

  void wait(operation& which, deadline limit) {
    const auto mismatched = [&] { return which.arrival == operation::state::mismatched; };
    link_.wait_until(limit, [&] {
      if (!link_.interrupted()) {
        progress();
      }
      return link_.interrupted() || mismatched() || finished(which);
    });
    if (finished(which)) {
      release(which);
      return;
    }
    const error failure = mismatched()
                              ? error(errc::communication, "",
                                      concat("a peer sent ", which.sent_bytes, " bytes where ", which.buffer.size(),
                                             " were expected; are all ranks given the same plan?"))
                              : error(errc::interrupted, "", "interrupted by the failure of another rank");
    abandon(which, limit);
    release(which);
    throw failure;
  }

  /// A new epoch: operations are counted from 0 again.
  void rearm() noexcept { next_ = 0; }

 private:
  [[nodiscard]] std::uint64_t ticket(const operation& which) const noexcept {
    return link_.epoch() << 32U | (which.number + 1);
  }
  [[nodiscard]] static bytes_view part_of(const operation& which, std::size_t peer) noexcept {
    return which.scatter ? which.windows[peer] : bytes_view(which.buffer);
  }

  operation& free_operation() {
    // A lane has one slot for operations that are `ring` apart, whichever of those between are over.
    if (!active_.empty() && next_ - active_.front()->number >= mpi_window::ring) {
      throw error(errc::invalid_argument, "buckets_in_flight",
                  concat("at most ", mpi_window::ring, " operations can be in flight over MPI"));
    }
    for (const std::unique_ptr<operation>& each : operations_) {
      if (!each->live) {
        return *each;
      }
    }
    return *operations_.emplace_back(std::make_unique<operation>());
  }

  /// What can fail for want of memory fails before anything is posted: a rank that threw later would leave MPI with its
  /// buffers. After the first few operations there is nothing left to allocate.
  void reserve(operation& which, bool scatter, std::span<const bytes_view> windows, mutable_bytes buffer,
               std::size_t root) {
    constexpr std::size_t most_tree_children = 64;  // one for each bit of a rank
    const bool is_root = root == link_.rank();
    const std::size_t children = is_root ? link_.size() : most_tree_children;
    std::size_t messages = 1;  // the credit
    if (!scatter) {
      messages += children * message_count(buffer.size());
    } else if (is_root) {
      for (const bytes_view window : windows) {
        messages += message_count(window.size());
      }
    }
    which.lanes.reserve(children);
    which.children.reserve(children);
    which.credits.reserve(children);
    which.issued.reserve(children);
    which.receives.reserve(message_count(buffer.size()));
    which.sends.reserve(messages);
    tree_.reserve(link_.size());
    active_.reserve(operations_.size());
  }

  void release(operation& which) noexcept {
    which.live = false;
    which.receives.clear();
    which.lanes.clear();
    which.children.clear();
    which.credits.clear();
    which.issued.clear();
    which.sends.clear();
    active_.erase(std::find(active_.begin(), active_.end(), &which));
  }

  // -- who gets what from whom -----------------------------------------------------------------------------------------------

  void send_to_node(operation& which) {
    for (std::size_t peer = 0; peer < link_.size(); ++peer) {
      if (peer != which.root && window_.together(peer, which.root)) {
        const mpi_window::place where = window_.place_of(part_of(which, peer));
        if (where.offset == mpi_window::as_message) {
          add_child(which, peer);
        } else {
          which.lanes.push_back(peer);
        }
        window_.post(peer, ticket(which), where);
      }
    }
  }

  /// The root and the ranks of other nodes, in the order of ranks from the root on. In a binomial tree the parent of position
  /// p is p without its lowest bit.
  void join_tree(operation& which) {
    const std::size_t size = link_.size();
    std::vector<std::size_t>& tree = tree_;
    tree.clear();
    std::size_t position = size;
    for (std::size_t i = 0; i < size; ++i) {
      const std::size_t rank = (which.root + i) % size;
      if (i == 0 || !window_.together(rank, which.root)) {
        position = rank == link_.rank() ? tree.size() : position;
        tree.push_back(rank);
      }
    }
    if (position == size) {
      return;  // on the root's node
    }
    if (position != 0) {
      receive_from(which, tree[position & (position - 1)]);
    }
    std::size_t bit = 1;
    while (bit < tree.size() && (position & bit) == 0) {
      bit <<= 1U;
    }
    for (bit >>= 1U; bit != 0; bit >>= 1U) {  // the largest subtree first
      if (position + bit < tree.size()) {
        add_child(which, tree[position + bit]);
      }
    }
  }

  void add_child(operation& which, std::size_t peer) {
    which.children.push_back(peer);
    which.issued.push_back(0);
    which.credits.push_back(MPI_REQUEST_NULL);
    check_mpi("MPI_Irecv", MPI_Irecv(nullptr, 0, MPI_BYTE, static_cast<int>(peer),
                                     link_.tag(mpi_link::channel::credit, which.number), link_.world().get(),
                                     &which.credits.back()));
  }

  void receive_from(operation& which, std::size_t parent) {
    which.arrival = operation::state::awaits_message;
    which.parent = parent;
    for_each_message(which.buffer, [&](std::byte* begin, int count) {
      which.receives.push_back(MPI_REQUEST_NULL);
      check_mpi("MPI_Irecv", MPI_Irecv(begin, count, MPI_BYTE, static_cast<int>(parent),
                                       link_.tag(mpi_link::channel::payload, which.number), link_.world().get(),
                                       &which.receives.back()));
    });
    which.sends.push_back(MPI_REQUEST_NULL);
    check_mpi("MPI_Isend",
              MPI_Isend(nullptr, 0, MPI_BYTE, static_cast<int>(parent),
                        link_.tag(mpi_link::channel::credit, which.number), link_.world().get(), &which.sends.back()));
  }

  // -- progress --------------------------------------------------------------------------------------------------------------

  /// Of all operations, so that the next bucket moves while this one is waited for. Payloads leave in the order of operations.
  void progress() {
    bool may_send = true;
    for (operation* const each : active_) {
      progress_arrival(*each);
      may_send = may_send && issue(*each);
    }
  }

  void progress_arrival(operation& which) {
    if (which.arrival == operation::state::awaits_lane) {
      mpi_window::place where;
      if (!window_.posted(which.root, ticket(which), where)) {
        return;
      }
      if (where.bytes != which.buffer.size()) {
        which.sent_bytes = where.bytes;
        which.arrival = operation::state::mismatched;
        return;
      }
      if (where.offset == mpi_window::as_message) {
        receive_from(which, which.root);
        return;
      }
      const bytes_view payload = window_.payload(which.root, where);
      if (!payload.empty()) {
        std::memcpy(which.buffer.data(), payload.data(), payload.size());
      }
      window_.take(which.root, ticket(which));
      which.arrival = operation::state::here;
    } else if (which.arrival == operation::state::awaits_message && received(which)) {
      which.arrival = which.sent_bytes == which.buffer.size() ? operation::state::here : operation::state::mismatched;
    }
  }

  bool received(operation& which) {
    bool all = true;
    for (MPI_Request& request : which.receives) {
      if (request == MPI_REQUEST_NULL) {
        continue;
      }
      int done = 0;
      MPI_Status status;
      check_mpi("MPI_Test", MPI_Test(&request, &done, &status));
      all = all && done != 0;
      if (done != 0) {
        int arrived = 0;
        MPI_Get_count(&status, MPI_BYTE, &arrived);
        which.sent_bytes += static_cast<std::uint64_t>(arrived);
      }
    }
    return all;
  }

  /// Sends to children that are ready. True once all have been sent to.
  bool issue(operation& which) {
    if (which.arrival != operation::state::here || link_.interrupted()) {
      return false;
    }
    bool all = true;
    for (std::size_t i = 0; i < which.children.size(); ++i) {
      if (which.issued[i] != 0) {
        continue;
      }
      int ready = 0;
      check_mpi("MPI_Test", MPI_Test(&which.credits[i], &ready, MPI_STATUS_IGNORE));
      if (ready == 0) {
        all = false;
        continue;
      }
      const std::size_t child = which.children[i];
      for_each_message(part_of(which, child), [&](const std::byte* begin, int count) {
        which.sends.push_back(MPI_REQUEST_NULL);
        check_mpi("MPI_Isend", MPI_Isend(begin, count, MPI_BYTE, static_cast<int>(child),
                                         link_.tag(mpi_link::channel::payload, which.number), link_.world().get(),
                                         &which.sends.back()));
      });
      which.issued[i] = 1;
      link_.issued(child, which.number);
    }
    return all;
  }

  [[nodiscard]] bool finished(operation& which) {
    return which.arrival == operation::state::here &&
           std::find(which.issued.begin(), which.issued.end(), char{0}) == which.issued.end() &&
           test_all(which.sends) && std::all_of(which.lanes.begin(), which.lanes.end(), [&](std::size_t peer) {
             return window_.taken(peer, ticket(which));
           });
  }

  // -- interruption ----------------------------------------------------------------------------------------------------------

  /// Until MPI has let go of the operation's buffers: what is on its way arrives, what is not never will.
  void abandon(operation& which, deadline limit) {
    cancel_all(which.credits);
    if (which.arrival == operation::state::awaits_message) {
      link_.wait_until(limit, [&] {
        return received(which) || link_.is_coming(which.parent, which.number) == std::optional(false);
      });
      cancel_all(which.receives);
    }
    link_.wait_until(limit, [&] { return test_all(which.sends); });
  }

  mpi_link& link_;
  mpi_window& window_;
  std::uint64_t next_ = 0;
  std::vector<std::unique_ptr<operation>> operations_;
  std::vector<operation*> active_;  // in the order in which they were started
  std::vector<std::size_t> tree_;
};

}  // namespace fsdpinit::detail
