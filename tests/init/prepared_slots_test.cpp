#include "support/expect_error.hpp"
#include "support/reference_model.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/init/pretrained.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <cstddef>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

/// \file
/// Slots of a framework whose tensors take heap where they are dropped and adopted: they are told before, while it may still fail.

namespace prepared_slots_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

struct slot {
  std::string events{};
  bool fails = false;
  std::optional<local_shard> held{};
};

struct network {
  slot first;
  slot second;

  template <class Visitor>
  void visit_slots(Visitor&& visit) {
    visit("first", first);
    visit("second", second);
  }
};

}  // namespace
}  // namespace prepared_slots_test

template <>
struct fsdpinit::slot_traits<prepared_slots_test::slot> {
  using slot = prepared_slots_test::slot;

  static slot_role role(const slot& /*slot*/) { return slot_role::parameter; }
  static fsdpinit::dtype dtype(const slot& /*slot*/) { return dtype::u8; }
  static fsdpinit::shape shape(const slot& /*slot*/) { return {3, 5}; }
  static fsdpinit::placement placement(const slot& /*slot*/) { return shard{0}; }
  static const std::byte* data(const slot& at) { return at.held ? at.held->data.get() : nullptr; }
  static void prepare(slot& at, std::span<const local_shard> next) {
    if (at.fails) {
      throw std::runtime_error("no memory for the metadata of a tensor");
    }
    at.events += next.empty() ? "prepared to be dropped, " : "prepared to adopt ";
    for (const local_shard& part : next) {
      at.events += concat(part.bytes, " bytes, ");
    }
  }
  static void drop(slot& at) noexcept {
    at.events += "dropped, ";
    at.held.reset();
  }
  static void adopt(slot& at, local_shard&& part) noexcept {
    at.events += concat("adopted ", part.bytes);
    at.held = std::move(part);
  }
};

namespace prepared_slots_test {
namespace {

const std::vector<std::byte> values(15, std::byte{7});

in_memory_source source_of(std::vector<std::string> names) {
  std::vector<in_memory_tensor> out;
  for (std::string& name : names) {
    out.push_back({{.name = std::move(name), .dtype = dtype::u8, .shape = {3, 5}}, values});
  }
  return in_memory_source(std::move(out));
}

TEST(PreparedSlots, AreToldWhatTheyWillAdoptBeforeTheyAreDropped) {
  run_ranks(2, [](std::size_t rank, threads_communicator& world) {
    network net;
    in_memory_source source = source_of({"first", "second"});
    initialize(net, source, world);
    const std::string bytes = rank == 0 ? "10" : "5";
    EXPECT_EQ(net.second.events,
              concat("prepared to be dropped, prepared to adopt ", bytes, " bytes, dropped, adopted ", bytes));
    load_pretrained(net, source, world);
    EXPECT_EQ(net.second.events.substr(net.second.events.rfind("prepared to")),
              rank == 0 ? "prepared to adopt 15 bytes, dropped, adopted 15" : "prepared to be dropped, dropped, ");
  });
}

TEST(PreparedSlots, ThatWillHoldNothingAreToldThatTheyAreDropped) {
  run_ranks(2, [](std::size_t, threads_communicator& world) {
    network net;
    in_memory_source source = source_of({"first"});
    initialize(net, source, world, {.strict = false});
    EXPECT_EQ(net.second.events, "prepared to be dropped, dropped, ");
  });
}

TEST(PreparedSlots, ThatCannotBePreparedAreOneErrorBeforeAnythingIsDropped) {
  for (const bool loads : {false, true}) {
    std::vector<network> nets(2);
    nets[1].second.fails = true;
    const auto errors = errors_of_ranks(2, [&](std::size_t rank, threads_communicator& world) {
      in_memory_source source = source_of({"first", "second"});
      if (loads) {
        load_pretrained(nets[rank], source, world);
      } else {
        initialize(nets[rank], source, world);
      }
    });
    expect_same_error(errors, errc::user_exception, "", 1, "no memory for the metadata of a tensor");
    for (const network& each : nets) {
      EXPECT_EQ(each.first.events.find("dropped, adopted"), std::string::npos);
      EXPECT_EQ(each.first.events.find("bytes, dropped"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace prepared_slots_test
