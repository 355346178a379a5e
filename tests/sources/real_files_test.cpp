#include <fsdpinit/sources/safetensors.hpp>
#include <support/expect_error.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit::real_files_test {
namespace {

/// Files that other programs wrote, in `$FSDPINIT_SHARED_DATA`, or `../shared/data` seen from the repository's root,
/// where tests run. The facts below were taken from them with Python's json, struct and zlib.
class real_files : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* given = std::getenv("FSDPINIT_SHARED_DATA");  // NOLINT(concurrency-mt-unsafe): one thread
    folder_ = given != nullptr ? given : "../shared/data";
    if (!std::filesystem::is_directory(folder_)) {
      GTEST_SKIP() << "no folder " << folder_ << ": set FSDPINIT_SHARED_DATA to the one with the real files";
    }
  }

  [[nodiscard]] std::string path(std::string_view name) const { return folder_ + "/" + std::string(name); }
  [[nodiscard]] const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
};

/// zlib's.
std::uint32_t crc32(std::string_view bytes) {
  std::uint32_t out = ~0U;
  for (const char c : bytes) {
    out ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) {
      out = (out >> 1U) ^ ((out & 1U) != 0 ? 0xedb88320U : 0U);
    }
  }
  return ~out;
}

struct fact {
  tensor_descriptor descriptor;
  std::uint64_t begin;
  std::uint32_t crc;
};

void expect_facts(const safetensors_source& source, const std::vector<fact>& facts) {
  ASSERT_EQ(source.tensors().size(), facts.size());
  for (std::size_t i = 0; i < facts.size(); ++i) {
    SCOPED_TRACE(facts[i].descriptor.name);
    EXPECT_EQ(source.tensors()[i], facts[i].descriptor);
    EXPECT_EQ(source.place_of(i).begin, facts[i].begin);
    std::string whole(source.place_of(i).bytes, '\0');
    source.read(i, 0, std::as_writable_bytes(std::span(whole)));
    EXPECT_EQ(crc32(whole), facts[i].crc);

    std::string in_pieces(whole.size(), '\0');
    for (std::size_t at = 0; at < whole.size(); at += 1021) {
      const auto piece = std::as_writable_bytes(std::span(in_pieces)).subspan(at);
      source.read(i, at, piece.first(std::min<std::size_t>(1021, piece.size())));
    }
    EXPECT_EQ(in_pieces, whole);
  }
}

TEST_F(real_files, silero_vad_is_read) {
  const safetensors_source source = open_safetensors(path("silero_vad_16k.safetensors"));
  EXPECT_EQ(source.files()[0].bytes, 1'239'748U);
  EXPECT_EQ(source.files()[0].header_bytes, 1'208U);
  EXPECT_TRUE(source.files()[0].metadata.empty());
  expect_facts(source, {
                           {{"stft_conv.weight", dtype::f32, {258, 1, 256}}, 1'216, 0x36bc3e69U},
                           {{"conv1.weight", dtype::f32, {128, 129, 3}}, 265'408, 0xfa1dc38aU},
                           {{"conv1.bias", dtype::f32, {128}}, 463'552, 0x5310cb73U},
                           {{"conv2.weight", dtype::f32, {64, 128, 3}}, 464'064, 0x645658f6U},
                           {{"conv2.bias", dtype::f32, {64}}, 562'368, 0x8c30301eU},
                           {{"conv3.weight", dtype::f32, {64, 64, 3}}, 562'624, 0xcf35f84bU},
                           {{"conv3.bias", dtype::f32, {64}}, 611'776, 0xd25af549U},
                           {{"conv4.weight", dtype::f32, {128, 64, 3}}, 612'032, 0x8951102cU},
                           {{"conv4.bias", dtype::f32, {128}}, 710'336, 0xab7ade57U},
                           {{"lstm_cell.weight_ih", dtype::f32, {512, 128}}, 710'848, 0x80689122U},
                           {{"lstm_cell.weight_hh", dtype::f32, {512, 128}}, 972'992, 0xce39cd5aU},
                           {{"lstm_cell.bias_ih", dtype::f32, {512}}, 1'235'136, 0xa7bc87f5U},
                           {{"lstm_cell.bias_hh", dtype::f32, {512}}, 1'237'184, 0x0ed3c400U},
                           {{"final_conv.weight", dtype::f32, {1, 128, 1}}, 1'239'232, 0x9824fe5fU},
                           {{"final_conv.bias", dtype::f32, {1}}, 1'239'744, 0x65e37da3U},
                       });
}

TEST_F(real_files, fastsafetensors_samples_are_read) {
  const std::map<std::string, std::string> metadata{{"fst", "sample"}};
  const safetensors_source a = open_safetensors(path("fastsafetensors_a.safetensors"));
  expect_facts(a, {{{"a0", dtype::f16, {16, 8}}, 104, 0x213df51dU}});
  EXPECT_EQ(a.files()[0].metadata, metadata);
  const safetensors_source b = open_safetensors(path("fastsafetensors_b.safetensors"));
  expect_facts(b, {{{"b0", dtype::f16, {16, 8}}, 104, 0x213df51dU}});
  EXPECT_EQ(b.files()[0].metadata, metadata);
}

TEST_F(real_files, their_folder_holds_several_checkpoints) {
  testing_support::expect_error(errc::invalid_file, folder(),
                                "give the path of the one to load: fastsafetensors_a.safetensors, ",
                                [&] { static_cast<void>(open_safetensors(folder())); });
}

}  // namespace
}  // namespace fsdpinit::real_files_test
