#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/sources/adaptors.hpp>
#include <fsdpinit/sources/safetensors.hpp>
#include <fsdpinit/testing/laws.hpp>
#include <support/expect_error.hpp>
#include <support/safetensors_bytes.hpp>
#include <support/temp_dir.hpp>
#include <support/u8_checkpoint.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/stat.h>

namespace fsdpinit::safetensors_source_test {
namespace {

using testing_support::all_of;
using testing_support::expect_error;
using testing_support::index_json;
using testing_support::read_text;
using testing_support::safetensors_bytes;
using testing_support::safetensors_entry_json;
using testing_support::temp_dir;
using testing_support::u8_file;
using contents = testing_support::u8_tensors;
namespace fs = std::filesystem;

static_assert(StateDictSource<safetensors_source>);
static_assert(IndexedSource<safetensors_source>);
static_assert(SourceOpener<checkpoint> && SourceOpener<safetensors_file>);
static_assert(std::is_nothrow_move_constructible_v<safetensors_source>);

const auto e = safetensors_entry_json;

/// What its index leaves out: `{tensor, file}` each.
template <IndexedSource S>
contents unlisted_in(const S& source) {
  contents out;
  for (const unlisted_tensor& each : source.unlisted()) {
    out.emplace_back(each.name, each.file);
  }
  return out;
}

void expect_rejected(const std::string& opened, errc code, const std::string& subject, std::string_view piece) {
  expect_error(code, subject, piece, [&] { static_cast<void>(open_safetensors(opened)); });
}

// -- one file

TEST(safetensors_source, reads_any_range_of_any_tensor) {
  const temp_dir dir;
  const std::string json = "{" + e("b", "U8", "[4]", "[2,6]") + "," + e("a", "I16", "[1]", "[0,2]") + "," +
                           e("none", "F32", "[0]", "[6,6]") + "}";
  const safetensors_source source(dir.write("f", safetensors_bytes(json, "abcdef")));
  ASSERT_EQ(source.tensors().size(), 3U);
  EXPECT_EQ(source.tensors()[0], (tensor_descriptor{"a", dtype::i16, {1}}));
  EXPECT_EQ(all_of(source), (contents{{"a", "ab"}, {"b", "cdef"}, {"none", ""}}));
  EXPECT_EQ(read_text(source, 1, 1, 2), "de");
  EXPECT_EQ(read_text(source, 1, 4, 0), "");
  EXPECT_EQ(read_text(source, 0, 1, 1), "b");
}

TEST(safetensors_source, of_no_tensors) {
  const temp_dir dir;
  EXPECT_TRUE(safetensors_source(dir.write("f", safetensors_bytes("{}"))).tensors().empty());
}

TEST(safetensors_source, tells_of_its_file) {
  const temp_dir dir;
  const std::string json = R"({"__metadata__":{"format":"pt"},)" + e("a", "U8", "[3]", "[0,3]") + "}  ";
  const std::string path = dir.write("f.safetensors", safetensors_bytes(json, "abc"));
  const safetensors_source source(path);
  ASSERT_EQ(source.files().size(), 1U);
  const safetensors_file_info& file = source.files()[0];
  EXPECT_EQ(file.path, path);
  EXPECT_EQ(file.bytes, 8 + json.size() + 3);
  EXPECT_EQ(file.header_bytes, json.size());
  EXPECT_EQ(file.tensors, 1U);
  EXPECT_EQ(file.metadata, (std::map<std::string, std::string>{{"format", "pt"}}));
  EXPECT_EQ(source.place_of(0).file, 0U);
  EXPECT_EQ(source.place_of(0).begin, 8 + json.size());
  EXPECT_EQ(source.place_of(0).bytes, 3U);
}

TEST(safetensors_source, moving_keeps_the_addresses_of_its_descriptors) {
  const temp_dir dir;
  safetensors_source first(dir.write("f", u8_file({{"a", "x"}})));
  const auto* address = first.tensors().data();
  const safetensors_source source(std::move(first));
  EXPECT_EQ(source.tensors().data(), address);
  EXPECT_EQ(all_of(source), (contents{{"a", "x"}}));
}

TEST(safetensors_source, a_file_shorter_than_8_bytes_is_rejected) {
  const temp_dir dir;
  for (const std::size_t bytes : {0U, 1U, 7U}) {
    const std::string path = dir.write(concat(bytes), std::string(bytes, '\0'));
    expect_rejected(path, errc::invalid_file, path, concat("has ", bytes, " bytes"));
  }
}

/// A file of that many bytes, all NUL behind the announced length and `{}`; it takes no room on the disk.
std::string sparse_file(const temp_dir& dir, std::uint64_t announced, std::uint64_t bytes) {
  std::string path = dir.write("sparse", safetensors_bytes("{}", "", announced));
  fs::resize_file(path, bytes);
  return path;
}

TEST(safetensors_source, a_header_of_a_hundred_million_bytes_is_read) {
  const temp_dir dir;
  // Read, and refused for what is in it.
  const std::string path = sparse_file(dir, 100'000'000, 100'000'008);
  expect_rejected(path, errc::invalid_file, path, "NUL at byte 2");
}

TEST(safetensors_source, a_header_of_one_byte_more_is_not) {
  const temp_dir dir;
  const std::string path = sparse_file(dir, 100'000'001, 100'000'009);
  expect_rejected(path, errc::invalid_file, path, "more than the 100000000 allowed");
}

TEST(safetensors_source, a_header_beyond_the_end_of_the_file_is_rejected) {
  const temp_dir dir;
  const std::string path = dir.write("f", safetensors_bytes("{}", "", 3));
  expect_rejected(path, errc::invalid_file, path, "should have 3 bytes, but only 2 follow");
}

TEST(safetensors_source, truncated_data_are_rejected) {
  const temp_dir dir;
  std::string bytes = u8_file({{"a", "xyz"}});
  bytes.pop_back();
  const std::string path = dir.write("f", bytes);
  expect_rejected(path, errc::invalid_file, path, "truncated by 1");
}

TEST(safetensors_source, trailing_data_are_rejected) {
  const temp_dir dir;
  const std::string path = dir.write("f", u8_file({{"a", "xyz"}}) + "!");
  expect_rejected(path, errc::invalid_file, path, "1 bytes follow the last tensor");
}

TEST(safetensors_source, a_read_out_of_bounds_is_the_callers_bug) {
  const temp_dir dir;
  const safetensors_source source(dir.write("f", u8_file({{"a", "xyz"}, {"b", "uvw"}})));
  std::array<std::byte, 4> out{};
  EXPECT_DEATH(source.read(2, 0, out), "");
  EXPECT_DEATH(source.read(0, 0, out), "");
  EXPECT_DEATH(source.read(0, 4, {}), "");
  EXPECT_DEATH(source.read(0, ~std::uint64_t{0}, std::span(out).first(2)), "");
  EXPECT_DEATH(static_cast<void>(source.place_of(2)), "");
}

// -- positions in files

static_assert(VectoredSource<safetensors_source>);
static_assert(PositionedSource<decltype(checkpoint{}())>);

std::string read_file(safetensors_source& source, std::size_t file, std::uint64_t offset, std::size_t count) {
  std::string out(count, '?');
  source.read_file(file, offset, std::as_writable_bytes(std::span(out)));
  return out;
}

TEST(safetensors_positions, are_those_of_the_bytes_in_the_file) {
  const temp_dir dir;
  const std::string bytes = u8_file({{"a", "xyz"}, {"b", "uvw"}});
  safetensors_source source(dir.write("f", bytes));
  EXPECT_EQ(source.file_count(), 1U);
  EXPECT_EQ(source.position_of(0), (file_position{.file = 0, .offset = bytes.size() - 6}));
  EXPECT_EQ(source.position_of(1), (file_position{.file = 0, .offset = bytes.size() - 3}));
  EXPECT_EQ(read_file(source, 0, source.position_of(0).offset + 1, 4), "yzuv");
  EXPECT_EQ(read_file(source, 0, bytes.size(), 0), "");
}

TEST(safetensors_positions, reach_over_tensors_that_the_index_does_not_map) {
  const temp_dir dir;
  static_cast<void>(dir.write("1", u8_file({{"z", "z"}})));
  static_cast<void>(dir.write("2", u8_file({{"a", "aa"}, {"b", "bb"}, {"c", "cc"}})));
  safetensors_source source =
      open_safetensors(dir.write("m.index.json", index_json({{"z", "1"}, {"a", "2"}, {"c", "2"}})));
  EXPECT_EQ(source.file_count(), 2U);
  const file_position first = source.position_of(1);
  EXPECT_EQ(first.file, 1U);
  EXPECT_EQ(source.position_of(2), (file_position{.file = 1, .offset = first.offset + 4}));
  EXPECT_EQ(read_file(source, 1, first.offset, 6), "aabbcc");
}

TEST(safetensors_positions, keep_the_laws_also_through_adaptors) {
  const temp_dir dir;
  static_cast<void>(dir.write("1", u8_file({{"model.a", "aaa"}, {"model.b", ""}})));
  static_cast<void>(dir.write("2", u8_file({{"model.c", "ccccccc"}, {"d", "dddd"}})));
  const checkpoint all{
      dir.write("m.index.json", index_json({{"model.a", "1"}, {"model.b", "1"}, {"model.c", "2"}, {"d", "2"}}))};
  safetensors_source source = all();
  EXPECT_EQ(testing::check_source(source), testing::violations{});
  const checkpoint second{dir / "2"};
  auto adapted = merged(second | filtered([](std::string_view name) { return name == "d"; }),
                        all | renamed("model.", "") | filtered([](std::string_view name) { return name != "d"; }))();
  static_assert(VectoredSource<decltype(adapted)>);
  EXPECT_EQ(adapted.file_count(), 3U);
  EXPECT_EQ(adapted.position_of(3)->file, 2U);
  EXPECT_EQ(testing::check_source(adapted), testing::violations{});
}

TEST(safetensors_positions, a_read_outside_of_a_files_data_is_the_callers_bug) {
  const temp_dir dir;
  const std::string bytes = u8_file({{"a", "xyz"}});
  safetensors_source source(dir.write("f", bytes));
  const std::uint64_t begin = source.position_of(0).offset;
  std::array<std::byte, 4> out{};
  EXPECT_DEATH(source.read_file(1, begin, {}), "");
  EXPECT_DEATH(source.read_file(0, begin - 1, std::span(out).first(1)), "");
  EXPECT_DEATH(source.read_file(0, begin, out), "");
  const std::array<mutable_bytes, 2> into{std::span(out).first(2), std::span(out).last(2)};
  EXPECT_DEATH(source.read_file_into(0, begin, into), "");
  EXPECT_DEATH(source.read_file_into(1, begin, {}), "");
  EXPECT_DEATH(source.read_file(0, bytes.size() + 1, {}), "");
  EXPECT_DEATH(static_cast<void>(source.position_of(1)), "");
}

// -- a file that changes

struct open_file {
  temp_dir dir;
  std::string path = dir.write("f", u8_file({{"a", "xyz"}, {"b", "uvw"}}));
  safetensors_source source{path};

  void expect_read_to_fail(std::string_view piece) const {
    expect_error(errc::invalid_file, path, piece, [this] { static_cast<void>(read_text(source, 0, 0, 3)); });
    expect_error(errc::invalid_file, path, piece, [this] {
      std::array<std::byte, 3> first{};
      source.read_file(0, source.position_of(0).offset, first);
    });
    expect_error(errc::invalid_file, path, piece, [this] {
      std::array<std::byte, 3> first{};
      const std::array<mutable_bytes, 2> into{std::span(first).first(1), std::span(first).last(2)};
      source.read_file_into(0, source.position_of(0).offset, into);
    });
  }
};

TEST(safetensors_source, a_file_cut_short_before_a_read_fails_it) {
  const open_file file;
  fs::resize_file(file.path, 8);
  file.expect_read_to_fail("the file shrank while it was read");
}

TEST(safetensors_source, a_file_cut_short_behind_the_range_fails_the_read_too) {
  const open_file file;
  fs::resize_file(file.path, fs::file_size(file.path) - 1);
  file.expect_read_to_fail("the file shrank from");
}

TEST(safetensors_source, a_file_that_grew_fails_the_read) {
  const open_file file;
  fs::resize_file(file.path, fs::file_size(file.path) + 1);
  file.expect_read_to_fail("the file grew from");
}

TEST(safetensors_source, a_file_written_in_place_fails_the_read) {
  const open_file file;
  const auto opened = fs::last_write_time(file.path);
  static_cast<void>(file.dir.write("f", u8_file({{"a", "123"}, {"b", "456"}})));
  fs::last_write_time(file.path, opened + std::chrono::milliseconds(4));  // file systems count in ticks
  file.expect_read_to_fail("the file was modified while it was read");
}

TEST(safetensors_source, a_replaced_file_fails_the_read) {
  const open_file file;
  static_cast<void>(file.dir.write("new", u8_file({{"a", "123"}, {"b", "456"}})));
  fs::rename(file.dir / "new", file.path);
  file.expect_read_to_fail("the file was deleted or replaced");
}

TEST(safetensors_source, of_several_files_only_reads_from_the_changed_one_fail) {
  const temp_dir dir;
  static_cast<void>(dir.write("1", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("2", u8_file({{"b", "y"}})));
  const safetensors_source source = open_safetensors(dir.write("m.index.json", index_json({{"a", "1"}, {"b", "2"}})));
  fs::resize_file(dir / "2", fs::file_size(dir / "2") + 1);
  EXPECT_EQ(read_text(source, 0, 0, 1), "x");
  expect_error(errc::invalid_file, dir / "2", "grew", [&] { static_cast<void>(read_text(source, 1, 0, 1)); });
}

// -- an index

TEST(safetensors_index, gives_the_tensors_of_its_files_in_order_of_file_and_offset) {
  const temp_dir dir;
  static_cast<void>(dir.write("m-2.safetensors", u8_file({{"y", "yy"}, {"x", "x"}})));
  static_cast<void>(dir.write("m-1.safetensors", u8_file({{"z", "zzz"}})));
  const safetensors_source source = open_safetensors(dir.write(
      "m.index.json", index_json({{"x", "m-2.safetensors"}, {"y", "m-2.safetensors"}, {"z", "m-1.safetensors"}})));
  EXPECT_EQ(all_of(source), (contents{{"z", "zzz"}, {"y", "yy"}, {"x", "x"}}));
  ASSERT_EQ(source.files().size(), 2U);
  EXPECT_EQ(source.files()[0].path, dir / "m-1.safetensors");
  EXPECT_EQ(source.files()[1].path, dir / "m-2.safetensors");
  EXPECT_EQ(source.place_of(1).file, 1U);
}

TEST(safetensors_index, tensors_that_it_does_not_map_are_no_part_of_it_and_listed) {
  const temp_dir dir;
  static_cast<void>(dir.write("1", u8_file({{"a", "a1"}, {"b", "b1"}, {"c", "c1"}})));
  static_cast<void>(dir.write("2", u8_file({{"a", "a2"}, {"b", "b2"}})));
  const safetensors_source source = open_safetensors(dir.write("m.index.json", index_json({{"a", "2"}, {"b", "1"}})));
  EXPECT_EQ(all_of(source), (contents{{"b", "b1"}, {"a", "a2"}}));
  EXPECT_EQ(source.files()[0].tensors, 3U);
  EXPECT_EQ(unlisted_in(source), (contents{{"a", "1"}, {"c", "1"}, {"b", "2"}}));
}

TEST(safetensors_index, a_part_that_it_does_not_name_is_looked_into_other_files_are_listed) {
  const temp_dir dir;
  static_cast<void>(dir.write("m-1-of-3.safetensors", u8_file({{"a", "a"}})));
  static_cast<void>(dir.write("m-2-of-3.safetensors", u8_file({{"b", "b"}, {"c", "c"}})));
  static_cast<void>(dir.write("m-3-of-3.safetensors", "damaged"));
  static_cast<void>(dir.write("m-1-of-2.safetensors", "another set's"));
  static_cast<void>(dir.write("consolidated.safetensors", "not looked into"));
  static_cast<void>(dir.write("m.safetensors.index.json", index_json({{"a", "m-1-of-3.safetensors"}})));
  const contents expected{{"", "consolidated.safetensors"},
                          {"", "m-1-of-2.safetensors"},
                          {"b", "m-2-of-3.safetensors"},
                          {"c", "m-2-of-3.safetensors"},
                          {"", "m-3-of-3.safetensors"}};
  for (const std::string& path : {dir.path(), dir / "m.safetensors.index.json"}) {
    const safetensors_source source = open_safetensors(path);
    EXPECT_EQ(all_of(source), (contents{{"a", "a"}}));
    EXPECT_EQ(source.files().size(), 1U);
    EXPECT_EQ(unlisted_in(source), expected);
  }
}

TEST(safetensors_index, that_maps_all_leaves_nothing_out) {
  const temp_dir dir;
  static_cast<void>(dir.write("1.safetensors", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("m.safetensors.index.json", index_json({{"a", "1.safetensors"}})));
  EXPECT_TRUE(open_safetensors(dir.path()).unlisted().empty());
  EXPECT_TRUE(open_safetensors(dir / "1.safetensors").unlisted().empty());
}

TEST(safetensors_index, what_it_leaves_out_goes_through_adaptors) {
  const temp_dir dir;
  static_cast<void>(dir.write("1", u8_file({{"model.a", "x"}, {"model.b", "x"}, {"model.c", "x"}})));
  const checkpoint all{dir.write("m.index.json", index_json({{"model.a", "1"}}))};
  auto source =
      (all | renamed("model.", "") | filtered([](std::string_view name) { return name != "c"; }) | cast(dtype::f32))();
  static_assert(IndexedSource<decltype(source)>);
  EXPECT_EQ(unlisted_in(source), (contents{{"b", "1"}}));
  const auto both = merged(source, safetensors_source(dir.write("2", u8_file({{"z", "z"}}))), all());
  EXPECT_EQ(unlisted_in(both), (contents{{"b", "1"}, {"model.b", "1"}, {"model.c", "1"}}));
  EXPECT_EQ(detail::contents_of(both).unlisted.size(), 3U);
}

TEST(safetensors_index, in_the_working_folder_needs_no_folder_in_its_path) {
  const temp_dir dir;
  static_cast<void>(dir.write("1", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("m.safetensors.index.json", index_json({{"a", "1"}})));
  const fs::path before = fs::current_path();
  fs::current_path(dir.path());
  const safetensors_source source = open_safetensors("m.safetensors.index.json");
  const safetensors_source of_folder = open_safetensors(".");
  fs::current_path(before);
  EXPECT_EQ(all_of(source), (contents{{"a", "x"}}));
  EXPECT_EQ(all_of(of_folder), (contents{{"a", "x"}}));
}

TEST(safetensors_index, a_mapped_tensor_that_its_file_lacks_is_an_error) {
  const temp_dir dir;
  static_cast<void>(dir.write("1", u8_file({{"a", "x"}, {"c", "x"}})));
  static_cast<void>(dir.write("2", u8_file({{"b", "x"}})));
  const std::string index = dir.write("m.index.json", index_json({{"a", "1"}, {"b", "1"}, {"c", "1"}}));
  expect_rejected(index, errc::invalid_file, index, R"(tensor "b" is mapped to "1", which does not hold it)");
}

TEST(safetensors_index, of_files_that_are_absent_names_them_and_what_else_is_there) {
  const temp_dir dir;
  static_cast<void>(dir.write("1.safetensors", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("3.safetensors", u8_file({{"c", "x"}})));
  fs::create_symlink("nowhere", dir / "4.safetensors");
  const std::string index = dir.write(
      "m.safetensors.index.json",
      index_json({{"a", "1.safetensors"}, {"b", "2.safetensors"}, {"c", "3.safetensors"}, {"d", "4.safetensors"}}));
  expect_rejected(index, errc::io, index,
                  "2 of 4 files absent: 2.safetensors, 4.safetensors (a dangling link); download them");
  static_cast<void>(dir.write("e.safetensors", ""));
  static_cast<void>(dir.write("f.safetensors", ""));
  expect_rejected(dir.path(), errc::io, index, "the folder also holds e.safetensors, f.safetensors");
}

TEST(safetensors_index, a_file_that_is_no_regular_one_is_an_error) {
  const temp_dir dir;
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  fs::create_directory(dir / "folder");
  fs::create_symlink("/dev/zero", dir / "device");
  const std::vector<std::pair<std::string, std::string>> rows{
      {"fifo", "is a FIFO"}, {"folder", "is a folder"}, {"device", "is a character device"}};
  for (const auto& [name, piece] : rows) {
    SCOPED_TRACE(name);
    const std::string index = dir.write("m.index.json", index_json({{"a", name}}));
    expect_rejected(index, errc::invalid_file, dir / name, piece);
  }
}

TEST(safetensors_index, an_invalid_file_is_named) {
  const temp_dir dir;
  static_cast<void>(dir.write("1", u8_file({{"a", "x"}}) + "!"));
  expect_rejected(dir.write("m.index.json", index_json({{"a", "1"}})), errc::invalid_file, dir / "1",
                  "follow the last");
}

TEST(safetensors_index, a_path_out_of_the_folder_is_rejected_though_it_exists) {
  const temp_dir dir;
  fs::create_directory(dir / "checkpoint");
  static_cast<void>(dir.write("secret", u8_file({{"a", "x"}})));
  const std::string index = dir.write("checkpoint/m.index.json", index_json({{"a", "../secret"}}));
  expect_rejected(index, errc::invalid_file, index, "holds a separator");
}

TEST(safetensors_index, one_that_is_larger_than_any_index_is_not_read) {
  const temp_dir dir;
  const std::string index = dir.write("m.index.json", "{}");
  fs::resize_file(index, 100'000'001);
  expect_rejected(index, errc::invalid_file, index, "an index may have 100000000");
}

TEST(safetensors_index, that_is_a_folder_is_looked_into) {
  const temp_dir dir;
  fs::create_directory(dir / "m.index.json");
  static_cast<void>(dir.write("m.index.json/f.safetensors", u8_file({{"a", "x"}})));
  EXPECT_EQ(all_of(open_safetensors(dir / "m.index.json")), (contents{{"a", "x"}}));
}

/// `snapshots/<revision>/<name> -> ../../blobs/<hash>`, as huggingface_hub lays out its cache.
TEST(safetensors_index, hugging_face_cache_of_links_is_read) {
  const temp_dir dir;
  fs::create_directories(dir / "snapshots/main");
  fs::create_directory(dir / "blobs");
  static_cast<void>(dir.write("blobs/0a", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("blobs/0b", u8_file({{"b", "y"}})));
  static_cast<void>(dir.write("blobs/0c", index_json({{"a", "1.safetensors"}, {"b", "2.safetensors"}})));
  fs::create_symlink("../../blobs/0a", dir / "snapshots/main/1.safetensors");
  fs::create_symlink("../../blobs/0b", dir / "snapshots/main/2.safetensors");
  fs::create_symlink("../../blobs/0c", dir / "snapshots/main/model.safetensors.index.json");
  const contents expected{{"a", "x"}, {"b", "y"}};
  EXPECT_EQ(all_of(open_safetensors(dir / "snapshots/main")), expected);
  EXPECT_EQ(all_of(open_safetensors(dir / "snapshots/main/model.safetensors.index.json")), expected);
  EXPECT_EQ(all_of(open_safetensors(dir / "blobs/0a")), (contents{{"a", "x"}}));

  fs::remove(dir / "blobs/0b");
  expect_rejected(dir / "snapshots/main", errc::io, dir / "snapshots/main/model.safetensors.index.json",
                  "1 of 2 files absent: 2.safetensors (a dangling link)");
}

// -- any path

TEST(open_safetensors, takes_a_file_under_any_name) {
  const temp_dir dir;
  EXPECT_EQ(all_of(open_safetensors(dir.write("weights", u8_file({{"a", "x"}})))), (contents{{"a", "x"}}));
}

TEST(open_safetensors, a_path_that_does_not_exist_is_an_error) {
  const temp_dir dir;
  expect_rejected(dir / "nothing", errc::io, dir / "nothing", "no such file or folder");
  expect_rejected("", errc::io, "", "no such file or folder");
}

TEST(open_safetensors, what_is_no_regular_file_is_an_error) {
  const temp_dir dir;
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  ASSERT_EQ(::mkfifo((dir / "fifo.index.json").c_str(), 0600), 0);
  expect_rejected(dir / "fifo", errc::invalid_file, dir / "fifo", "is a FIFO");
  expect_rejected(dir / "fifo.index.json", errc::invalid_file, dir / "fifo.index.json", "is a FIFO");
  expect_rejected("/dev/zero", errc::invalid_file, "/dev/zero", "is a character device");
}

TEST(checkpoint, opens_only_when_it_is_called) {
  const checkpoint missing{"/nowhere/model.safetensors"};
  expect_error(errc::io, missing.path, "no such file", [&] { static_cast<void>(missing()); });

  const temp_dir dir;
  EXPECT_EQ(all_of(checkpoint{dir.write("f", u8_file({{"a", "x"}}))}()), (contents{{"a", "x"}}));
}

TEST(checkpoint, reads_the_same_where_pages_are_dropped) {
  const temp_dir dir;
  const std::string content(9 * mib + 1, 'x');
  const std::string path = dir.write("f", u8_file({{"a", content}, {"b", "y"}}));
  EXPECT_EQ(all_of(checkpoint{path, page_cache::drop_behind}()), (contents{{"a", content}, {"b", "y"}}));
  dir.write("m.safetensors.index.json", index_json({{"a", "f"}, {"b", "f"}}));
  EXPECT_EQ(all_of(checkpoint{dir / "m.safetensors.index.json", page_cache::drop_behind}()),
            (contents{{"a", content}, {"b", "y"}}));
}

}  // namespace
}  // namespace fsdpinit::safetensors_source_test
