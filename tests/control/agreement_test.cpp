#include "support/archetypes.hpp"
#include "support/expect_error.hpp"
#include "support/heap_faults.hpp"
#include <fsdpinit/communicators/self.hpp>
#include <fsdpinit/control/agreement.hpp>
#include <fsdpinit/control/wire.hpp>
#include <fsdpinit/core/attempt.hpp>
#include <fsdpinit/testing/rank_harness.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace agreement_test {
namespace {

using namespace fsdpinit;
using namespace fsdpinit::testing_support;
using fsdpinit::testing::errors_of_ranks;
using fsdpinit::testing::run_ranks;

/// Agrees on four ranks, each having failed with `failure(rank)`, over a control channel of type `Control`; those for which
/// `exhausted(rank)` is true have no heap meanwhile.
template <class Control>
std::vector<std::optional<error>> agreement(
    const std::function<std::optional<error>(std::size_t)>& failure,
    const std::function<bool(std::size_t)>& exhausted = [](std::size_t) { return false; }) {
  return errors_of_ranks(4, [&](std::size_t rank, threads_communicator& world) {
    const auto agree_over = [&](auto& control) {
      const std::optional<error> mine = failure(rank);
      std::optional<failing_heap> failing;
      if (exhausted(rank)) {
        failing.emplace(0, heap_fault::exhausted);
      }
      agree(control, mine, deadline::after(30));
    };
    if constexpr (std::is_same_v<Control, threads_communicator>) {
      agree_over(world);
    } else {
      Control control(world);
      agree_over(control);
    }
  });
}

std::optional<error> io_error(std::string_view text) { return error(errc::io, "file", text, {.native_code = 5}); }

void expect_everywhere(const std::vector<std::optional<error>>& errors, std::string_view what) {
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->what(), what);
  }
}

template <class Control>
class AgreementOver : public ::testing::Test {};
using controls = ::testing::Types<threads_communicator, minimal_communicator, reducing_control, failable_control>;
TYPED_TEST_SUITE(AgreementOver, controls);

TYPED_TEST(AgreementOver, NoFailureReturns) {
  for (const auto& each : agreement<TypeParam>([](std::size_t) { return std::nullopt; })) {
    EXPECT_FALSE(each.has_value());
  }
}

TYPED_TEST(AgreementOver, TheLowestRankWins) {
  const auto errors = agreement<TypeParam>(
      [](std::size_t rank) { return rank == 0 ? std::nullopt : io_error(concat("broke on ", rank)); });
  expect_everywhere(errors, "file: broke on 1 (rank 1)");
  EXPECT_EQ(errors[3]->code(), errc::io);
  EXPECT_EQ(errors[3]->subject(), "file");
  EXPECT_EQ(errors[3]->native_code(), 5);
}

TYPED_TEST(AgreementOver, AnErrorIsWorseThanAnInterruption) {
  expect_everywhere(agreement<TypeParam>([](std::size_t rank) -> std::optional<error> {
                      return rank == 2 ? io_error("broke") : error(errc::interrupted, "", "interrupted");
                    }),
                    "file: broke (rank 2)");
}

TYPED_TEST(AgreementOver, AnErrorIsWorseThanAPeerThatWasWaitedForInVain) {
  expect_everywhere(agreement<TypeParam>([](std::size_t rank) -> std::optional<error> {
                      return rank == 2   ? io_error("broke")
                             : rank == 0 ? error(errc::interrupted, "", "interrupted")
                                         : error(errc::peer_lost, "", "waited");
                    }),
                    "file: broke (rank 2)");
  expect_everywhere(agreement<TypeParam>([](std::size_t rank) -> std::optional<error> {
                      return rank == 1 ? error(errc::peer_lost, "", "waited") : error(errc::interrupted, "", "");
                    }),
                    "waited (rank 1)");
}

TYPED_TEST(AgreementOver, ARankWithoutMemoryGetsThroughItAndKnowsTheCode) {
  const std::optional<error> failure = io_error("broke");
  for (const std::size_t failing : {0U, 2U}) {
    const std::vector<std::optional<error>> errors =
        agreement<TypeParam>([&](std::size_t rank) { return rank == failing ? failure : std::nullopt; },
                             [](std::size_t rank) { return rank != 1; });
    for (std::size_t rank = 0; rank < errors.size(); ++rank) {
      ASSERT_TRUE(errors[rank].has_value()) << "rank " << rank;
      EXPECT_EQ(errors[rank]->code(), errc::io);
      EXPECT_EQ(errors[rank]->rank(), static_cast<std::int32_t>(failing));
      EXPECT_EQ(errors[rank]->native_code(), 5);
      EXPECT_EQ(errors[rank]->text() == "broke", rank == 1 || !heap_is_a_seam) << errors[rank]->text();
    }
  }
}

TEST(Agreement, ARankThatAnErrorNamesIsKept) {
  expect_everywhere(agreement<threads_communicator>([](std::size_t rank) -> std::optional<error> {
                      return rank == 1 ? std::optional(error(errc::io, "", "broke", {.rank = 3})) : std::nullopt;
                    }),
                    "broke (rank 3)");
  expect_everywhere(agreement<threads_communicator>([](std::size_t) -> std::optional<error> {
                      return error(errc::missing_tensor, "a", "missing", {.rank = every_rank});
                    }),
                    "a: missing");
}

TEST(Agreement, TextsAreCutToFourKibibytesAlikeEverywhere) {
  const std::string subject(3000, 's');
  const auto errors = agreement<threads_communicator>([&](std::size_t rank) -> std::optional<error> {
    return rank == 3 ? std::optional(error(errc::io, subject, std::string(9000, 't'))) : std::nullopt;
  });
  for (const auto& each : errors) {
    ASSERT_TRUE(each.has_value());
    EXPECT_EQ(each->subject(), subject.substr(0, 1024));
    EXPECT_EQ(each->text(), std::string(4096 - 5 * 8 - 1024, 't'));
    EXPECT_EQ(each->rank(), 3);
  }
}

TEST(Agreement, TakesWhateverWasThrown) {
  const auto thrown_on_rank_1 = [](const std::function<void()>& act) {
    return errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      agreed(world, 30, [&] {
        if (rank == 1) {
          act();
        }
      });
    });
  };
  expect_everywhere(thrown_on_rank_1([] { throw std::runtime_error("user's"); }), "user's (rank 1)");
  expect_everywhere(thrown_on_rank_1([] { throw 1; }), "an exception that is not a std::exception (rank 1)");
  const auto errors = thrown_on_rank_1([] { throw std::bad_alloc(); });
  EXPECT_EQ(errors[0]->code(), errc::out_of_memory);
  EXPECT_EQ(errors[0]->rank(), 1);
}

TEST(Agreement, OfOneRankIsItsOwn) {
  self_communicator alone;
  agree(alone, std::nullopt, deadline::never());
  expect_error(errc::io, "file", "broke", [&] { agree(alone, io_error("broke"), deadline::never()); });
}

TEST(Agreement, ARankThatDoesNotComeIsPeerLostForTheOthers) {
  const double began = monotonic_seconds();
  const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    if (rank != 1) {
      agree(world, std::nullopt, deadline::after(0.1));
    }
  });
  EXPECT_LT(monotonic_seconds() - began, 5.0);
  ASSERT_TRUE(errors[0].has_value() && errors[2].has_value());
  EXPECT_EQ(errors[0]->code(), errc::peer_lost);
  EXPECT_STREQ(errors[0]->what(), errors[2]->what());
}

TEST(Agreement, ALateRankLearnsThatItWasGivenUpAndTheChannelWorksAgain) {
  run_ranks(3, [&](std::size_t rank, threads_communicator& world) {
    if (rank == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
    }
    const auto thrown = attempt([&] { agree(world, std::nullopt, deadline::after(0.05)); });
    ASSERT_TRUE(thrown.has_value());
    EXPECT_EQ(thrown->code(), errc::peer_lost);
    EXPECT_EQ(all_reduce_max(world, rank, deadline::after(30)), 2U);
  });
}

/// It is not what it says.
struct numbered_wrongly {
  std::size_t rank_;
  std::size_t size_;
  [[nodiscard]] std::size_t rank() const { return rank_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  void broadcast(mutable_bytes /*buffer*/, std::size_t /*root*/) { ADD_FAILURE() << "nothing is to be sent"; }
};

TEST(Agreement, ARankThatIsNoneOfItsChannelIsAnError) {
  for (numbered_wrongly links : {numbered_wrongly{.rank_ = 5, .size_ = 2}, numbered_wrongly{.rank_ = 0, .size_ = 0}}) {
    expect_error(errc::invalid_argument, "ranks",
                 concat("its rank() is ", links.rank_, " and its size() ", links.size_),
                 [&] { agreed(links, 1, [] {}); });
  }
}

TEST(Agreement, ADeadlineThatIsNoneIsAnErrorOnEveryRankAndItsStepIsNotTaken) {
  for (const double seconds : {0.0, -1.0, std::nan("")}) {
    const auto errors = errors_of_ranks(3, [&](std::size_t rank, threads_communicator& world) {
      agreed(world, rank == 1 ? seconds : 30, [&] { EXPECT_NE(rank, 1U); });
    });
    for (const auto& each : errors) {
      ASSERT_TRUE(each.has_value());
      EXPECT_EQ(each->code(), errc::invalid_argument);
      EXPECT_EQ(each->subject(), "deadline_seconds");
      EXPECT_EQ(each->rank(), 1);
    }
  }
}

TEST(BroadcastBytes, CarriesAnySizeFromAnyRoot) {
  run_ranks(3, [](std::size_t rank, threads_communicator& world) {
    minimal_communicator control(world);
    for (std::size_t root = 0; root < 3; ++root) {
      for (const std::size_t size : {0U, 1U, 100'000U}) {
        std::vector<std::byte> mine(rank == root ? size : 17, static_cast<std::byte>(rank + 1));
        const auto got = broadcast_bytes(control, mine, root, deadline::after(30));
        EXPECT_EQ(got, std::vector<std::byte>(size, static_cast<std::byte>(root + 1)));
      }
    }
  });
}

TEST(Attempt, KeepsErrorsAndTranslatesTheRest) {
  EXPECT_FALSE(attempt([] {}).has_value());
  EXPECT_EQ(attempt([] { throw error(errc::io, "a", "b"); })->code(), errc::io);
  EXPECT_EQ(attempt([] { throw std::bad_alloc(); })->code(), errc::out_of_memory);
  EXPECT_EQ(attempt([] { throw std::logic_error("c"); })->code(), errc::user_exception);
  EXPECT_EQ(attempt([] { throw std::logic_error("c"); })->text(), "c");
  EXPECT_EQ(attempt([] { throw 7; })->code(), errc::user_exception);
}

struct out_of_paper {};

template <class Thrown>
bool is_caused_by(const error& failure) {
  if (!failure.cause()) {
    return false;
  }
  try {
    std::rethrow_exception(failure.cause());
  } catch (const Thrown&) {
    return true;
  } catch (...) {
    return false;
  }
}

TEST(Attempt, KeepsWhatWasThrownAsTheCause) {
  EXPECT_TRUE(is_caused_by<out_of_paper>(*attempt([] { throw out_of_paper(); })));
  EXPECT_TRUE(is_caused_by<std::bad_alloc>(*attempt([] { throw std::bad_alloc(); })));
  EXPECT_TRUE(is_caused_by<error>(*attempt([] { throw error(errc::io, "a", "b"); })));
  const error first = *attempt([] { throw out_of_paper(); });
  EXPECT_TRUE(is_caused_by<out_of_paper>(*attempt([&] { throw first; })));
  EXPECT_TRUE(is_caused_by<out_of_paper>(*attempt([&] { own_step([&] { throw first; }); })));
  EXPECT_TRUE(is_caused_by<out_of_paper>(first.reported_by(3)));
}

TEST(Agreement, TheCauseIsKnownWhereItBegan) {
  run_ranks(3, [](std::size_t rank, threads_communicator& world) {
    try {
      agreed(world, 5, [&] {
        if (rank == 1) {
          throw out_of_paper();
        }
      });
      ADD_FAILURE() << "no failure on rank " << rank;
    } catch (const error& failure) {
      EXPECT_EQ(is_caused_by<out_of_paper>(failure), rank == 1) << rank;
      EXPECT_EQ(failure.cause() == nullptr, rank != 1) << rank;
    }
  });
}

TEST(Attempt, NeedsNoMemoryForWhatWasThrown) {
  const error known(errc::io, "a", "b");
  const std::logic_error of_user("c");
  const auto without_memory = [](auto&& act) {
    const failing_heap exhausted(0, heap_fault::exhausted);
    return attempt(act);
  };
  EXPECT_STREQ(without_memory([&] { throw error(known); })->what(), "a: b");
  EXPECT_EQ(without_memory([] { throw std::bad_alloc(); })->code(), errc::out_of_memory);
  if (heap_is_a_seam) {
    EXPECT_EQ(without_memory([&] { throw std::logic_error(of_user); })->code(), errc::out_of_memory);
    EXPECT_EQ(without_memory([] { throw 7; })->code(), errc::out_of_memory);
    EXPECT_EQ(without_memory([] { throw error(errc::io, "a", "b"); })->code(), errc::out_of_memory);
  }
}

// -- wire

TEST(Wire, ErrorsArriveAsTheyWere) {
  const error sent(errc::invalid_tie, "a\nb", "text\nwith details", {.rank = every_rank, .native_code = -7});
  const error got = detail::decode_error(detail::encode(sent));
  EXPECT_STREQ(got.what(), sent.what());
  EXPECT_EQ(got.code(), sent.code());
  EXPECT_EQ(got.rank(), sent.rank());
  EXPECT_EQ(got.native_code(), sent.native_code());
  EXPECT_EQ(detail::encode(sent).size(), 4096U);
}

TEST(Wire, ContentsArriveAsTheyWere) {
  const state_dict_contents sent{
      .tensors = {{.name = "", .dtype = dtype::u64, .shape = {}},
                  {.name = "a", .dtype = dtype::f4, .shape = {0, 7}},
                  {.name = std::string(5000, 'n'), .dtype = dtype::bf16, .shape = {1, 2, 3}}},
      .stored = {{.dtype = dtype::u64}, {.dtype = dtype::f4, .name = "stored.a"}, {.dtype = dtype::f16}},
      .unlisted = {{.name = "b", .file = "f"}, {.name = {}, .file = "g"}}};
  const state_dict_contents got = detail::decode_contents(detail::encode(sent));
  EXPECT_EQ(got.tensors, sent.tensors);
  EXPECT_EQ(got.stored, sent.stored);
  EXPECT_EQ(got.unlisted, sent.unlisted);
  EXPECT_TRUE(detail::decode_contents(detail::encode(state_dict_contents{})).tensors.empty());
}

TEST(Wire, ContentsThatAreShownAsTheyAreStoredSayNoMore) {
  const state_dict_contents sent{.tensors = {{.name = "a", .dtype = dtype::f4, .shape = {0, 7}},
                                             {.name = "b", .dtype = dtype::bf16, .shape = {2}}}};
  const state_dict_contents got = detail::decode_contents(detail::encode(sent));
  EXPECT_EQ(got.tensors, sent.tensors);
  EXPECT_TRUE(got.stored.empty());
  EXPECT_EQ(got.stored_name(1), "b");
  EXPECT_EQ(got.stored_dtype(1), dtype::bf16);
}

TEST(Wire, AMessageThatEndsEarlyIsAnError) {
  const state_dict_contents sent{.tensors = {{.name = "name", .dtype = dtype::u64, .shape = {2}}},
                                 .stored = {{.dtype = dtype::u64}}};
  std::vector<std::byte> bytes = detail::encode(sent);
  bytes.pop_back();
  expect_error(errc::communication, "", "ended early", [&] { static_cast<void>(detail::decode_contents(bytes)); });
}

}  // namespace
}  // namespace agreement_test
