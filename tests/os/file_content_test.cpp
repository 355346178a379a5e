#include <fsdpinit/os/file_content.hpp>

#include <gtest/gtest.h>

#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fsdpinit::file_content_test {
namespace {

std::string told(std::string_view first_bytes) {
  return detail::what_else_it_is(std::as_bytes(std::span(first_bytes)));
}

struct beginning {
  std::string name;
  std::string bytes;
  std::string what;
  std::string remedy;

  friend std::ostream& operator<<(std::ostream& out, const beginning& row) { return out << row.name; }
};

class known_content : public ::testing::TestWithParam<beginning> {};

TEST_P(known_content, is_told_with_its_remedy) {
  const std::string text = told(GetParam().bytes);
  EXPECT_TRUE(text.starts_with(GetParam().what)) << text;
  EXPECT_NE(text.find(GetParam().remedy), std::string::npos) << text;
}

/// As in a file of some size.
std::string with_rest(const std::string& begin) { return begin + std::string(600, '\xe7'); }

INSTANTIATE_TEST_SUITE_P(
    table, known_content,
    ::testing::ValuesIn(std::vector<beginning>{
        {"html", "<!DOCTYPE html>\n<html>", "is an HTML page", "download"},
        {"html_in_other_letters", "<HTML><head>", "is an HTML page", "access token"},
        {"html_after_white_space", "\r\n  <!doctype HTML>", "is an HTML page", "download"},
        {"html_after_a_byte_order_mark", "\xef\xbb\xbf<html>", "is an HTML page", "download"},
        {"html_in_utf8", "<html><title>d\xc3\xa9sol\xc3\xa9", "is an HTML page", "download"},
        {"xml", "<?xml version=\"1.0\"?><Error><Code>AccessDenied", "is XML or HTML", "download"},
        {"json", R"({"architectures": ["LlamaForCausalLM"]})", "is JSON", "*.safetensors.index.json"},
        {"short_json", "{}", "is JSON", "give the file of weights"},
        {"json_array", "[\"a\", \"b\"]", "is JSON", "give the file of weights"},
        {"text", "Entry not found", "is text that begins with \"Entry not found\"", "download"},
        {"zip", with_rest(std::string("PK\3\4\0\0\x08\x08\0\0", 10)), "is a zip archive, as torch.save", "torch.load"},
        {"empty_zip", std::string("PK\5\6", 4) + std::string(18, '\0'), "is an empty zip archive", "download"},
        {"pickle_2", with_rest("\x80\x02\x8a\x0al\xfc\x9c"), "is a pickle, as torch.save", "save_file"},
        {"pickle_4", with_rest(std::string("\x80\x04\x95\0\0\0\0\0\0\0\0}", 12)), "is a pickle", "save_file"},
        {"gzip", with_rest("\x1f\x8b\x08\x08\x01\x02\x03\x04"), "is compressed by gzip", "gunzip"},
        {"gzip_whose_length_would_be_allowed", with_rest(std::string("\x1f\x8b\x08\0\0\0\0\0\0\x03", 10)),
         "is compressed by gzip", "gunzip"},
        {"zstd", with_rest("\x28\xb5\x2f\xfd"), "is compressed by zstd", "unzstd"},
        {"xz",
         with_rest(std::string("\xfd"
                               "7zXZ\0",
                               6)),
         "is compressed by xz", "unxz"},
        {"bzip2", with_rest("BZh91AY&SY"), "is compressed by bzip2", "bunzip2"},
        {"git_lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "is a Git LFS pointer",
         "`git lfs pull`"},
        {"gguf", with_rest(std::string("GGUF\3\0\0\0", 8)), "is a GGUF file", "safetensors"},
        {"hdf5", with_rest("\x89HDF\r\n\x1a\n"), "is an HDF5 file", "safetensors"},
        {"zeros", std::string(512, '\0'), "begins with 512 zeros", "download"},
        {"few_zeros", std::string(8, '\0'), "begins with 8 zeros", "download"},
    }),
    [](const auto& row) { return row.param.name; });

TEST(unknown_content, says_nothing) {
  for (const std::string& bytes :
       {std::string(), std::string("\0", 1), std::string(7, '\0'), std::string("\x01\x02\x03"),
        std::string(300, '\xff'), std::string(8, '\0') + std::string(8, '\x7f')}) {
    EXPECT_EQ(told(bytes), "") << bytes.size();
  }
}

TEST(unknown_content, what_begins_like_a_safetensors_file_is_left_to_its_header) {
  const std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  // Lengths that are the first bytes of a pickle, of gzip, of bzip2, of a page.
  for (const std::string& begin : {std::string("\x80\2\0\0\0\0\0\0", 8), std::string("\x1f\x8b\x08\0\0\0\0\0", 8),
                                   std::string("BZh\0\0\0\0\0", 8), std::string("<\0\0\0\0\0\0\0", 8)}) {
    EXPECT_EQ(told(begin + header), "");
    EXPECT_EQ(told(begin + "  \n" + header), "");
    EXPECT_EQ(told(begin + std::string(504, ' ')), "");
  }
}

TEST(unknown_content, only_the_first_512_bytes_count) {
  const std::string zeros(512, '\0');
  EXPECT_EQ(told(zeros + "x"), told(zeros));
}

}  // namespace
}  // namespace fsdpinit::file_content_test
