#include "support/fake_cuda.hpp"
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/float_conversion.hpp>
#include <fsdpinit/memory/block.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <support/expect_error.hpp>
#include <support/sanitizers.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace cuda_memory_test {
namespace {

using namespace fsdpinit;
using fsdpinit::testing::check_memory;
using fsdpinit::testing::fake_cuda;
using fsdpinit::testing::fake_cuda_with_kernels;
using fsdpinit::testing::violations;
using fsdpinit::testing_support::is_sanitized;
using fsdpinit::testing_support::thrown_by;

using device_memory = basic_cuda_memory<fake_cuda>;
using pinned = basic_pinned_memory<fake_cuda>;
using stream = basic_cuda_stream<fake_cuda>;
using event = basic_cuda_event<fake_cuda>;

static_assert(CudaApi<fake_cuda> && !ConvertingCudaApi<fake_cuda>);
static_assert(ConvertingCudaApi<fake_cuda_with_kernels>);
static_assert(MemorySpace<device_memory>);
static_assert(MemorySpace<pinned> && pinned::host_accessible);

std::vector<std::byte> numbers(std::size_t count) {
  std::vector<std::byte> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = static_cast<std::byte>(i + 1);
  }
  return out;
}

/// A device on which everything has been given back and nothing done wrong when the test ends.
class CudaMemory : public ::testing::Test {
 protected:
  void TearDown() override {
    EXPECT_EQ(cuda.left(), 0U);
    for (const std::string& fault : cuda.faults()) {
      ADD_FAILURE() << fault;
    }
  }
  fake_cuda cuda;
};

TEST_F(CudaMemory, KeepsTheLaws) { EXPECT_EQ(check_memory(device_memory(0, cuda)), violations{}); }

TEST_F(CudaMemory, StagedInPinnedMemoryKeepsTheLaws) {
  EXPECT_EQ(check_memory(device_memory(0, cuda).staging()), violations{});
}

TEST_F(CudaMemory, NothingIsCopiedBeforeItIsWaitedFor) {
  device_memory memory(0, cuda);
  const block<device_memory> held(memory, 4);
  device_memory::queue order;
  std::vector<std::byte> in = numbers(4);
  std::vector<std::byte> out(4);
  memory.copy_in(held.data(), in.data(), 4, 4, 1, order);
  in[0] = std::byte{99};  // too early, and it shows
  memory.copy_out(out.data(), held.data(), 4, order);
  EXPECT_EQ(out[0], std::byte{0});
  memory.wait(order);
  EXPECT_EQ(out[0], std::byte{99});
}

TEST_F(CudaMemory, IsAccountedInBothPlaces) {
  device_memory memory(0, cuda);
  pinned staging = memory.staging();
  {
    const block<device_memory> held(memory, 100);
    const block<pinned> other(staging, 30);
    EXPECT_EQ(memory.accounted(), 100U);
    EXPECT_EQ(staging.accounted(), 30U);
  }
  EXPECT_EQ(memory.accounted(), 0U);
  EXPECT_EQ(memory.accounted_peak(), 100U);
  EXPECT_EQ(staging.accounted(), 0U);
  EXPECT_EQ(staging.accounted_peak(), 30U);
}

TEST_F(CudaMemory, LeavesTheCurrentDeviceAsItWas) {
  cuda = fake_cuda(1000, 3);
  ASSERT_EQ(cuda.set_device(2), fake_cuda::success);
  device_memory memory(1, cuda);
  const block<device_memory> held(memory, 8);
  int current = 0;
  ASSERT_EQ(cuda.device(&current), fake_cuda::success);
  EXPECT_EQ(current, 2);
}

TEST_F(CudaMemory, IsOnTheCurrentDeviceWhereNoneIsNamed) { EXPECT_EQ(device_memory().device(), 0); }

TEST_F(CudaMemory, ThatIsNotThereIsATypedError) {
  cuda = fake_cuda(1000);
  device_memory memory(0, cuda);
  const auto caught = thrown_by([&] { static_cast<void>(memory.allocate(1001)); });
  ASSERT_TRUE(caught);
  EXPECT_EQ(caught->code(), errc::out_of_memory);
  EXPECT_NE(caught->text().find("1001 bytes of device 0"), std::string::npos) << caught->what();
  EXPECT_EQ(memory.accounted(), 0U);
}

TEST_F(CudaMemory, OfADeviceThatIsNotThereIsATypedError) {
  device_memory memory(7, cuda);
  const auto caught = thrown_by([&] { static_cast<void>(memory.allocate(1)); });
  ASSERT_TRUE(caught);
  EXPECT_EQ(caught->code(), errc::device);
  EXPECT_EQ(caught->native_code(), 101);
  EXPECT_NE(caught->text().find("cannot use device 7: invalid device ordinal"), std::string::npos) << caught->what();
}

TEST_F(CudaMemory, EveryCallThatFailsIsATypedErrorAndLeavesNothing) {
  const std::vector<std::byte> in = numbers(6);
  std::vector<std::byte> out(6);
  const auto use = [&] {
    device_memory memory(0, cuda);
    pinned staging = memory.staging();
    const block<pinned> between(staging, 6);
    const block<device_memory> held(memory, 6);
    device_memory::queue order;
    memory.copy_in(held.data(), in.data(), 6, 6, 1, order);
    memory.copy_in(held.data(), in.data(), 2, 1, 3, order);
    memory.copy_out(out.data(), held.data(), 6, order);
    memory.wait(order);
  };
  use();
  const std::uint64_t calls = cuda.calls.calls();
  ASSERT_GT(calls, 8U);
  for (std::uint64_t call = 0; call < calls; ++call) {
    cuda.calls.fail_at(call);
    const auto caught = thrown_by(use);
    ASSERT_TRUE(caught) << "call " << call;
    EXPECT_EQ(caught->code(), errc::device);
    EXPECT_EQ(caught->native_code(), fake_cuda::injected);
    EXPECT_NE(caught->text().find("injected failure"), std::string::npos) << caught->what();
  }
  cuda.calls.restart();
}

TEST_F(CudaMemory, AQueueGoesWhenItsCopiesAreDone) {
  device_memory memory(0, cuda);
  const block<device_memory> held(memory, 3);
  const std::vector<std::byte> in = numbers(3);
  std::vector<std::byte> out(3);
  {
    device_memory::queue order;
    memory.copy_in(held.data(), in.data(), 3, 3, 1, order);
    memory.copy_out(out.data(), held.data(), 3, order);
  }
  EXPECT_EQ(out, in);
}

TEST_F(CudaMemory, CopiesInTurnOnAStreamOfSomebodyElses) {
  device_memory memory(0, cuda);
  const block<device_memory> held(memory, 3);
  std::vector<std::byte> in = numbers(3);
  std::vector<std::byte> out(3);
  stream theirs(cuda, 0);
  const std::size_t before = cuda.left();
  {
    device_memory::queue order(theirs);
    ASSERT_EQ(cuda.copy_to_device(held.data(), in.data(), 3, theirs.get()), fake_cuda::success);
    memory.copy_out(out.data(), held.data(), 3, order);
    EXPECT_EQ(cuda.left(), before) << "no stream is made";
    memory.wait(order);
    EXPECT_EQ(out, in);
    in[0] = std::byte{99};
    memory.copy_in(held.data(), in.data(), 3, 3, 1, order);
  }
  EXPECT_EQ(cuda.pending(), 0U) << "what has not been waited for is, before the queue goes";
  ASSERT_EQ(cuda.copy_to_host(out.data(), held.data(), 3, theirs.get()), fake_cuda::success);
  theirs.wait();
  EXPECT_EQ(out, in) << "and the stream stays";
}

TEST_F(CudaMemory, AnEventOrdersTwoStreams) {
  device_memory memory(0, cuda);
  const block<device_memory> held(memory, 3);
  const std::vector<std::byte> in = numbers(3);
  std::vector<std::byte> out(3);
  stream writes(cuda, 0);
  stream reads(cuda, 0);
  event written(cuda, 0);
  ASSERT_EQ(cuda.copy_to_device(held.data(), in.data(), 3, writes.get()), fake_cuda::success);
  written.record(writes.get());
  written.hold(reads.get());
  ASSERT_EQ(cuda.copy_to_host(out.data(), held.data(), 3, reads.get()), fake_cuda::success);
  reads.wait();
  EXPECT_EQ(out, in);
}

TEST_F(CudaMemory, AnEventIsWaitedForOrWasNeverRecorded) {
  device_memory memory(0, cuda);
  const block<device_memory> held(memory, 3);
  const std::vector<std::byte> in = numbers(3);
  stream writes(cuda, 0);
  event written(cuda, 0);
  written.wait();
  ASSERT_EQ(cuda.copy_to_device(held.data(), in.data(), 3, writes.get()), fake_cuda::success);
  written.record(writes.get());
  EXPECT_EQ(cuda.query_event(nullptr), 400);
  written.wait();
  EXPECT_EQ(cuda.query_stream(writes.get()), fake_cuda::success);
  ASSERT_EQ(cuda.faults().size(), 1U);  // that of the event that is none
  cuda = fake_cuda();
}
TEST(CudaWidening, TakesPassesOfHalfOfWhatIsLeft) {
  constexpr std::uint64_t count = 1000;
  fake_cuda_with_kernels cuda;
  {
    basic_cuda_memory<fake_cuda_with_kernels> memory(0, cuda);
    const block<basic_cuda_memory<fake_cuda_with_kernels>> held(memory, count * 4);
    const std::vector<std::byte> narrow = numbers(count * 2);
    std::vector<std::byte> wide(count * 4);
    std::vector<std::byte> expected(count * 4);
    convert_floats(dtype::f16, narrow.data(), dtype::f32, expected.data(), count);

    decltype(memory)::queue order;
    std::byte* const arrived = held.data() + count * 2;
    memory.copy_in(arrived, narrow.data(), narrow.size(), narrow.size(), 1, order);
    const std::uint64_t before = cuda.pending();
    memory.widen(dtype::f16, arrived, dtype::f32, held.data(), count, order);
    EXPECT_EQ(cuda.pending() - before, 11U);  // 500, 250, ..., 1, and the last one
    memory.copy_out(wide.data(), held.data(), wide.size(), order);
    memory.wait(order);
    EXPECT_EQ(wide, expected);
  }
  EXPECT_EQ(cuda.faults(), std::vector<std::string>{});
  EXPECT_EQ(cuda.left(), 0U);
}

/// What the double finds, so that the tests that use it can fail.
class FakeCuda : public ::testing::Test {
 protected:
  void expect_fault(const std::string& text) {
    ASSERT_EQ(cuda.faults().size(), 1U);
    EXPECT_NE(cuda.faults().front().find(text), std::string::npos) << cuda.faults().front();
  }
  /// 8 bytes of the device.
  void* memory_that_was_given_back() {
    void* address = nullptr;
    EXPECT_EQ(cuda.allocate(&address, 8), fake_cuda::success);
    cuda.deallocate(address);
    return address;
  }
  fake_cuda cuda;
  std::array<std::byte, 8> host{};
};

TEST_F(FakeCuda, FindsAMissingEvent) {
  device_memory memory(0, cuda);
  const block<device_memory> held(memory, 8);
  stream writes(cuda, 0);
  stream reads(cuda, 0);
  static_cast<void>(cuda.copy_to_device(held.data(), host.data(), 8, writes.get()));
  static_cast<void>(cuda.copy_to_host(host.data(), held.data(), 8, reads.get()));
  EXPECT_TRUE(thrown_by([&] { reads.wait(); }));
  expect_fault("never written");
}

TEST_F(FakeCuda, FindsMemoryThatGoesTooEarly) {
  device_memory memory(0, cuda);
  stream writes(cuda, 0);
  {
    const block<device_memory> held(memory, 8);
    static_cast<void>(cuda.copy_to_device(held.data(), host.data(), 8, writes.get()));
  }
  expect_fault("device memory is given back while a copy may use it");
}

TEST_F(FakeCuda, FindsStagingThatGoesTooEarly) {
  device_memory memory(0, cuda);
  const block<device_memory> held(memory, 8);
  pinned staging = memory.staging();
  stream writes(cuda, 0);
  {
    const block<pinned> between(staging, 8);
    static_cast<void>(cuda.copy_to_device(held.data(), between.data(), 8, writes.get()));
  }
  expect_fault("pinned memory is given back while a copy may use it");
}

TEST_F(FakeCuda, FindsAConversionThatWritesWhereItReads) {
  fake_cuda_with_kernels with_kernels;
  device_memory memory(0, with_kernels);
  const block<device_memory> held(memory, 8);
  stream works(with_kernels, 0);
  static_cast<void>(with_kernels.copy_to_device(held.data(), host.data(), 8, works.get()));
  static_cast<void>(with_kernels.convert(dtype::bf16, held.data() + 2, dtype::f32, held.data(), 2, works.get()));
  EXPECT_TRUE(thrown_by([&] { works.wait(); }));
  ASSERT_EQ(with_kernels.faults().size(), 1U);
  EXPECT_NE(with_kernels.faults().front().find("writes where it reads"), std::string::npos);
}

TEST_F(FakeCuda, FindsCopiesOutsideOfMemory) {
  device_memory memory(0, cuda);
  const block<device_memory> held(memory, 4);
  stream writes(cuda, 0);
  static_cast<void>(cuda.copy_to_device(held.data() + 1, host.data(), 4, writes.get()));
  EXPECT_TRUE(thrown_by([&] { writes.wait(); }));
  expect_fault("outside of device memory");
}

TEST_F(FakeCuda, FindsMemoryThatIsGivenBackTwice) {
  cuda.deallocate(memory_that_was_given_back());
  expect_fault("device memory is given back that is not there");
}

TEST_F(FakeCuda, FindsMemoryThatIsGivenBackAsAnother) {
  void* address = nullptr;
  ASSERT_EQ(cuda.allocate(&address, 4), fake_cuda::success);
  cuda.deallocate_pinned(address);
  expect_fault("pinned memory is given back that is not there");
}

TEST_F(FakeCuda, FindsUseAfterItWasGivenBack) {
  stream writes(cuda, 0);
  static_cast<void>(cuda.copy_to_device(memory_that_was_given_back(), host.data(), 8, writes.get()));
  EXPECT_TRUE(thrown_by([&] { writes.wait(); }));
  expect_fault("outside of device memory");
}

TEST_F(FakeCuda, FindsWhatIsLeft) {
  void* address = nullptr;
  ASSERT_EQ(cuda.allocate_pinned(&address, 8), fake_cuda::success);
  EXPECT_EQ(cuda.left(), 1U);
  cuda.deallocate_pinned(address);
  EXPECT_EQ(cuda.left(), 0U);
}

TEST(FakeCudaDeathTest, HostCodeThatTouchesDeviceMemoryDies) {
  if (is_sanitized) {
    GTEST_SKIP() << "sanitizers have memory of their own";
  }
  device_memory memory(0, fake_cuda());
  const block<device_memory> taken(memory, 4);
  EXPECT_DEATH(std::memset(taken.data(), 1, 4), "");
}

}  // namespace
}  // namespace cuda_memory_test
