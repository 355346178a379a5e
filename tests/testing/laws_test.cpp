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
#include <string>
#include <string_view>
#include <utility>

/// That our own models keep the laws, and that the kits notice those that do not.

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

TEST(SourceLaws, NoticeAFileThatIsNotCounted) {
  struct without_files : minimal_positioned_source<in_memory_source> {
    using minimal_positioned_source::minimal_positioned_source;
    [[nodiscard]] std::size_t file_count() const { return 1; }
  };
  const reference_model model = varied_model();
  without_files source(model.source());
  EXPECT_TRUE(mentions(check_source(source), "its file is below file_count()"));
}

TEST(MemoryLaws, HoldForOurSpaces) {
  EXPECT_EQ(check_memory(host_memory()), violations{});
  EXPECT_EQ(check_memory(fake_device_memory()), violations{});
  EXPECT_EQ(check_memory(minimal_memory(host_memory())), violations{});
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
