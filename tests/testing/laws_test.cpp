#include "support/archetypes.hpp"
#include "support/fake_device_memory.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>
#include <fsdpinit/modules/parameter.hpp>
#include <fsdpinit/sources/in_memory.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// That our own models keep the laws, and that the kits notice those that do not.

namespace laws_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::check_communicator;
using fsdpinit::testing::check_memory;
using fsdpinit::testing::check_module;
using fsdpinit::testing::check_slot;
using fsdpinit::testing::check_source;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::violations;

bool mentions(const violations& broken, std::string_view words) {
  return std::any_of(broken.begin(), broken.end(),
                     [&](const std::string& law) { return law.find(words) != std::string::npos; });
}

TEST(SourceLaws, HoldForTheInMemorySource) {
  const reference_model model = varied_model();
  in_memory_source source = model.source();
  EXPECT_EQ(check_source(source), violations{});
  minimal_source minimal(model.source());
  EXPECT_EQ(check_source(minimal), violations{});
}

TEST(SourceLaws, NoticeASourceThatForgetsTheOffset) {
  struct from_the_start : in_memory_source {
    using in_memory_source::in_memory_source;
    explicit from_the_start(in_memory_source inner) : in_memory_source(std::move(inner)) {}
    void read(std::size_t tensor, std::uint64_t, mutable_bytes destination) const {
      in_memory_source::read(tensor, 0, destination);
    }
  };
  const reference_model model = varied_model();
  from_the_start source(model.source());
  EXPECT_TRUE(mentions(check_source(source), "pieces of 1 bytes are the whole"));
}

TEST(SourceLaws, HoldForSourcesThatCastAndThatHavePositions) {
  const reference_model model = varied_model();
  minimal_casting_source<in_memory_source> casting(model.source());
  EXPECT_EQ(check_source(casting), violations{});
  minimal_positioned_source<in_memory_source> positioned(model.source());
  EXPECT_EQ(check_source(positioned), violations{});
  minimal_vectored_source<in_memory_source> vectored(model.source());
  EXPECT_EQ(check_source(vectored), violations{});
}

TEST(SourceLaws, NoticeACastThatIsNotWhatIsStored) {
  /// Shows zeros where f32 is stored.
  struct zeroing : minimal_casting_source<in_memory_source> {
    using minimal_casting_source::minimal_casting_source;
    void read(std::size_t, std::uint64_t, mutable_bytes destination) {
      std::fill(destination.begin(), destination.end(), std::byte{0});
    }
  };
  const reference_model model = varied_model();
  zeroing source(model.source());
  EXPECT_TRUE(mentions(check_source(source), "layers.0.up: read() gives what is stored, converted"));
}

TEST(SourceLaws, NoticeACastThatNobodyCanMake) {
  struct from_integers : minimal_casting_source<in_memory_source> {
    using minimal_casting_source::minimal_casting_source;
    [[nodiscard]] dtype stored_dtype(std::size_t) const { return dtype::i32; }
  };
  const reference_model model = varied_model();
  from_integers source(model.source());
  EXPECT_TRUE(mentions(check_source(source), "not from I32 to F32"));
}

TEST(SourceLaws, NoticeWhatIsStoredReadFromTheStart) {
  struct from_the_start : minimal_casting_source<in_memory_source> {
    using minimal_casting_source::minimal_casting_source;
    void read_stored(std::size_t tensor, std::uint64_t, mutable_bytes destination) {
      minimal_casting_source::read_stored(tensor, 0, destination);
    }
  };
  const reference_model model = varied_model();
  from_the_start source(model.source());
  EXPECT_TRUE(mentions(check_source(source), ", stored: pieces of 1 bytes are the whole"));
}

TEST(SourceLaws, NoticeAPositionThatIsNotTheTensors) {
  struct reversing : minimal_positioned_source<in_memory_source> {
    using minimal_positioned_source::minimal_positioned_source;
    void read_file(std::size_t file, std::uint64_t offset, mutable_bytes destination) {
      minimal_positioned_source::read_file(file, offset, destination);
      std::reverse(destination.begin(), destination.end());
    }
  };
  const reference_model model = varied_model();
  reversing source(model.source());
  EXPECT_TRUE(mentions(check_source(source), "the file has its bytes at its position"));
}

TEST(SourceLaws, NoticePartsThatAreNotTheWhole) {
  struct repeating : minimal_vectored_source<in_memory_source> {
    using minimal_vectored_source::minimal_vectored_source;
    void read_file_into(std::size_t file, std::uint64_t offset, std::span<const mutable_bytes> destinations) {
      for (const mutable_bytes each : destinations) {
        read_file(file, offset, each);
      }
    }
  };
  const reference_model model = varied_model();
  repeating source(model.source());
  EXPECT_TRUE(mentions(check_source(source), "parts by one read are the whole"));
}

TEST(SourceLaws, NoticeAFileThatIsNotCounted) {
  struct without_files : minimal_positioned_source<in_memory_source> {
    using minimal_positioned_source::minimal_positioned_source;
    [[nodiscard]] std::size_t file_count() const { return 1; }
  };
  const reference_model model = varied_model();
  without_files source(model.source());
  EXPECT_TRUE(mentions(check_source(source), "its file is below file_count()"));
}

TEST(SourceLaws, NoticeAFileWithoutAFingerprint) {
  struct forgetful : in_memory_source {
    explicit forgetful(in_memory_source inner) : in_memory_source(std::move(inner)) {}
    [[nodiscard]] std::vector<file_fingerprint> file_fingerprints() const { return {{.path = "model.safetensors"}}; }
    [[nodiscard]] std::optional<std::size_t> file_of(std::size_t tensor) const { return tensor; }
  };
  const reference_model model = varied_model();
  forgetful source(model.source());
  EXPECT_TRUE(mentions(check_source(source), "the file it is read from has a fingerprint"));
}

TEST(MemoryLaws, HoldForOurSpaces) {
  EXPECT_EQ(check_memory(host_memory()), violations{});
  EXPECT_EQ(check_memory(fake_device_memory()), violations{});
  EXPECT_EQ(check_memory(minimal_memory(host_memory())), violations{});
  EXPECT_EQ(check_memory(minimal_copying_memory(host_memory())), violations{});
}

TEST(MemoryLaws, NoticeACopyThatIgnoresTheStride) {
  struct dense_memory : host_memory {
    void copy_in(std::byte* destination, const std::byte* source, std::uint64_t, std::uint64_t run, std::uint64_t count,
                 queue&) {
      std::memcpy(destination, source, run * count);
    }
  };
  EXPECT_TRUE(mentions(check_memory(dense_memory()), "copy_in packs runs of 1 of 11 bytes"));
}

TEST(MemoryLaws, NoticeACopyWithinThatIgnoresAStride) {
  struct dense_memory : minimal_copying_memory {
    using minimal_copying_memory::minimal_copying_memory;
    void copy_within(std::byte* destination, std::uint64_t, const std::byte* source, std::uint64_t source_stride,
                     std::uint64_t run, std::uint64_t count, queue& order) {
      minimal_copying_memory::copy_within(destination, run, source, source_stride, run, count, order);
    }
  };
  EXPECT_TRUE(mentions(check_memory(dense_memory(host_memory())), "copy_within places runs of 4 of 11 bytes"));
}

TEST(MemoryLaws, NoticeZerosThatDoNotReachTheEnd) {
  struct short_memory : minimal_copying_memory {
    using minimal_copying_memory::minimal_copying_memory;
    void zero(std::byte* destination, std::uint64_t bytes, queue& order) {
      minimal_copying_memory::zero(destination, bytes / 256 * 256, order);
    }
  };
  EXPECT_TRUE(mentions(check_memory(short_memory(host_memory())), "zero clears what it is told to"));
}

TEST(MemoryLaws, NoticeAnAccountThatIsRoundedUp) {
  struct rounding_memory : host_memory {
    std::byte* allocate(std::uint64_t bytes) { return host_memory::allocate(align_up(bytes, 256)); }
    void deallocate(std::byte* address, std::uint64_t bytes) noexcept {
      host_memory::deallocate(address, align_up(bytes, 256));
    }
  };
  EXPECT_TRUE(mentions(check_memory(rounding_memory()), "exact to the byte"));
}

TEST(SlotLaws, HoldForOurSlots) {
  parameter weight(dtype::f32, {3, 4}, shard{1});
  EXPECT_EQ(check_slot(weight), violations{});
  buffer mask(dtype::boolean, {3}, false);
  EXPECT_EQ(check_slot(mask), violations{});
  foreign_tensor foreign(dtype::f16, {5});
  EXPECT_EQ(check_slot(foreign), violations{});
}

TEST(ModuleLaws, HoldForOurModules) {
  host_memory memory;
  dynamic_module module = varied_model().module(memory, true);
  EXPECT_EQ(check_module(module), violations{});
  foreign_module foreign;
  EXPECT_EQ(check_module(foreign), violations{});
}

TEST(ModuleLaws, NoticeATieToNobody) {
  dynamic_module module;
  module.add_parameter("a", dtype::f32, {2});
  module.tie({"a", "nobody"});
  EXPECT_TRUE(mentions(check_module(module), "a tied name is visited: nobody"));
}

TEST(CommunicatorLaws, NoticeAScatterThatHandsOutTheWrongWindow) {
  struct confused_communicator : minimal_communicator {
    using minimal_communicator::minimal_communicator;
    void scatter(std::span<const bytes_view>, mutable_bytes own, std::size_t) {
      std::fill(own.begin(), own.end(), std::byte{0});
    }
  };
  fsdpinit::testing::run_ranks(2, [](threads_communicator& world) {
    confused_communicator confused(world);
    const violations broken = check_communicator(confused);
    EXPECT_TRUE(mentions(broken, "gives this rank's window"));
  });
}

// All ranks do as these do, with a group and without, so that nobody waits in vain.

TEST(CommunicatorLaws, NoticeAGroupThatHasAnotherRoot) {
  struct rooted_communicator : group_communicator {
    using group_communicator::group_communicator;
    token start_broadcast(mutable_bytes buffer, std::size_t) { return group_communicator::start_broadcast(buffer, 0); }
    token start_broadcast(mutable_bytes buffer, std::size_t, std::span<const std::size_t> group) {
      return group_communicator::start_broadcast(buffer, group.empty() ? 0 : group.front(), group);
    }
  };
  fsdpinit::testing::run_ranks(3, [](std::size_t rank, threads_communicator& world) {
    rooted_communicator rooted(world);
    const violations broken = check_communicator(rooted);
    EXPECT_TRUE(mentions(broken, rank == 0 ? "in a group of" : "leaves its root's buffer as it is")) << "rank " << rank;
  });
}

TEST(CommunicatorLaws, NoticeAScatterInAGroupThatMovesNothing) {
  struct idle_communicator : group_communicator {
    using group_communicator::group_communicator;
    token start_scatter(std::span<const bytes_view>, mutable_bytes, std::size_t, std::span<const std::size_t> group) {
      return group_communicator::start_broadcast({}, group.empty() ? 0 : group.front(), group);
    }
  };
  fsdpinit::testing::run_ranks(2, [](std::size_t rank, threads_communicator& world) {
    idle_communicator idle(world);
    EXPECT_TRUE(mentions(check_communicator(idle), "gives what its root sent")) << "rank " << rank;
  });
}

TEST(CommunicatorLaws, NoticeAGatherInAnotherOrder) {
  struct rotated_communicator : collective_communicator {
    using collective_communicator::collective_communicator;
    void all_gather(bytes_view own, mutable_bytes all, std::span<const std::size_t> group, deadline limit) {
      collective_communicator::all_gather(own, all, group, limit);
      if (group.empty()) {
        std::rotate(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(own.size()), all.end());
      }
    }
  };
  fsdpinit::testing::run_ranks(2, [](threads_communicator& world) {
    rotated_communicator rotated(world);
    EXPECT_TRUE(mentions(check_communicator(rotated), "gives all parts in the order of ranks"));
  });
}

/// Adds as `Order` has the ranks: gathers all contributions first.
template <class Order>
struct gather_and_add : collective_communicator {
  using collective_communicator::collective_communicator;
  void reduce_scatter(std::span<const float> contribution, std::span<float> own, std::span<const std::size_t> group,
                      deadline limit) {
    const std::size_t everyone[] = {0, 1, 2};
    group = group.empty() ? everyone : group;
    std::vector<float> all(contribution.size() * group.size());
    inner_.all_gather(std::as_bytes(contribution), std::as_writable_bytes(std::span(all)), group, limit);
    std::size_t index = 0;
    while (group[index] != rank()) {
      ++index;
    }
    std::vector<float> terms(group.size());
    for (std::size_t i = 0; i < own.size(); ++i) {
      for (std::size_t k = 0; k < group.size(); ++k) {
        terms[k] = all[k * contribution.size() + index * own.size() + i];
      }
      own[i] = Order()(terms, index);
    }
  }
};

template <class Order>
bool is_noticed() {
  bool noticed = true;
  fsdpinit::testing::run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    gather_and_add<Order> mutant(world);
    const bool mine = mentions(check_communicator(mutant), "adds in the order of ranks, to the bit");
    if (rank == 2) {
      noticed = mine;
    }
  });
  return noticed;
}

TEST(CommunicatorLaws, NoticeASumInAnotherOrder) {
  struct as_defined {
    float operator()(const std::vector<float>& terms, std::size_t) const {
      return std::accumulate(terms.begin() + 1, terms.end(), terms.front());
    }
  };
  struct backwards {
    float operator()(const std::vector<float>& terms, std::size_t) const {
      return std::accumulate(terms.rbegin() + 1, terms.rend(), terms.back());
    }
  };
  struct own_first {
    float operator()(std::vector<float> terms, std::size_t index) const {
      std::rotate(terms.begin(), terms.begin() + static_cast<std::ptrdiff_t>(index), terms.end());
      return std::accumulate(terms.begin() + 1, terms.end(), terms.front());
    }
  };
  struct in_double_precision {
    float operator()(const std::vector<float>& terms, std::size_t) const {
      return static_cast<float>(std::accumulate(terms.begin(), terms.end(), 0.0));
    }
  };
  EXPECT_FALSE(is_noticed<as_defined>());
  EXPECT_TRUE(is_noticed<backwards>());
  EXPECT_TRUE(is_noticed<own_first>());
  EXPECT_TRUE(is_noticed<in_double_precision>());
}

TEST(CommunicatorLaws, NoticeNodesThatRanksDoNotAgreeOn) {
  struct selfish_communicator : minimal_communicator {
    using minimal_communicator::minimal_communicator;
    [[nodiscard]] std::size_t node_of(std::size_t rank) const { return rank < this->rank() ? rank : this->rank(); }
  };
  fsdpinit::testing::run_ranks(3, [](threads_communicator& world) {
    selfish_communicator selfish(world);
    EXPECT_TRUE(mentions(check_communicator(selfish), "is the same on every rank"));
  });
}

TEST(CommunicatorLaws, NoticeNodesThatAreNotNamedByTheirLowestRank) {
  struct counting_communicator : minimal_communicator {
    using minimal_communicator::minimal_communicator;
    [[nodiscard]] std::size_t node_of(std::size_t rank) const { return (rank + 1) / 2; }
  };
  fsdpinit::testing::run_ranks(4, [](threads_communicator& world) {
    counting_communicator counting(world);
    EXPECT_TRUE(mentions(check_communicator(counting), "is the lowest rank of its node"));
  });
}

TEST(CommunicatorLaws, NoticeAReductionThatKeepsOld) {
  struct clinging_communicator : minimal_communicator {
    using minimal_communicator::minimal_communicator;
    std::uint64_t all_reduce_max(std::uint64_t value) {
      most = std::max(most, inner_.all_reduce_max(value));
      return most;
    }
    std::uint64_t most = 0;
  };
  fsdpinit::testing::run_ranks(2, [](threads_communicator& world) {
    clinging_communicator clinging(world);
    EXPECT_TRUE(mentions(check_communicator(clinging), "forgets the reduction before"));
  });
}

}  // namespace
}  // namespace laws_test
