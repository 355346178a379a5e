#include <fsdpinit/sources/safetensors.hpp>
#include <support/expect_error.hpp>
#include <support/temp_dir.hpp>
#include <support/u8_checkpoint.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/stat.h>

namespace fsdpinit::safetensors_folder_test {
namespace {

using testing_support::all_of;
using testing_support::expect_error;
using testing_support::index_json;
using testing_support::temp_dir;
using testing_support::u8_file;
using contents = testing_support::u8_tensors;
namespace fs = std::filesystem;

void expect_rejected(const std::string& opened, std::string_view piece) {
  expect_error(errc::invalid_file, opened, piece, [&] { static_cast<void>(open_safetensors(opened)); });
}

// -- names

TEST(index_names, are_those_of_safetensors_with_or_without_a_variant) {
  for (const std::string_view name :
       {"model.safetensors.index.json", "m.safetensors.index.fp16.json", "a.b-c.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.non_ema.json", "m.safetensors.index.a.b.json"}) {
    EXPECT_TRUE(detail::is_index_name(name)) << name;
  }
  for (const std::string_view name :
       {"pytorch_model.bin.index.json", "pytorch_model.bin.index.fp16.json", "flax_model.msgpack.index.json",
        "tf_model.h5.index.json", "model.index.json", "safetensors.index.json", ".safetensors.index.json",
        "m.safetensors.index", "m.safetensors.index.", "m.safetensors.index.json5", "m.safetensors.index..json",
        "m.safetensors.index.json.bak", "m.safetensors.json", "model.safetensors"}) {
    EXPECT_FALSE(detail::is_index_name(name)) << name;
  }
}

TEST(part_names, say_which_of_how_many) {
  struct row {
    std::string_view name;
    std::string_view set;
    std::uint64_t number;
    std::uint64_t count;
  };
  for (const row& each : std::vector<row>{
           {"model-00002-of-00003.safetensors", "model-*-of-00003.safetensors", 2, 3},
           {"m-1-of-2.safetensors", "m-*-of-2.safetensors", 1, 2},
           {"00001-of-00002.safetensors", "*-of-00002.safetensors", 1, 2},
           {"model.fp32-00001-of-00002.safetensors", "model.fp32-*-of-00002.safetensors", 1, 2},
           {"model-00001-of-00002.fp16.safetensors", "model-*-of-00002.fp16.safetensors", 1, 2},
           {"rank-00000-of-00002.safetensors", "rank-*-of-00002.safetensors", 0, 2},
           {"a-1-of-2-3-of-4.safetensors", "a-1-of-2-*-of-4.safetensors", 3, 4},
       }) {
    const std::optional<detail::part_name> part = detail::part_name_of(each.name);
    ASSERT_TRUE(part) << each.name;
    EXPECT_EQ(part->set, each.set);
    EXPECT_EQ(part->number, each.number);
    EXPECT_EQ(part->count, each.count);
  }
  for (const std::string_view name :
       {"model.safetensors", "model-00001-of-00001.safetensors", "model-00004-of-00003.safetensors",
        "model-00001-of-00003.bin", "model-a-of-00003.safetensors", "model--of-3.safetensors",
        "model-1-of-.safetensors", "model1-of-3.safetensors", "model-1-of-3x.safetensors", "-of-3.safetensors",
        "one-of-2.safetensors", "m-1-of-99999999999999999999.safetensors", ""}) {
    EXPECT_FALSE(detail::part_name_of(name)) << name;
  }
}

// -- one checkpoint

TEST(safetensors_folder, resolves_to_its_only_safetensors_file) {
  const temp_dir dir;
  static_cast<void>(dir.write("weights.safetensors", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("config.json", "{}"));
  static_cast<void>(dir.write("pytorch_model.bin", ""));
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"a", "x"}}));
  EXPECT_EQ(open_safetensors(dir.path() + "/").files()[0].path, dir / "weights.safetensors");
}

TEST(safetensors_folder, resolves_to_its_index_before_files_that_it_does_not_name) {
  const temp_dir dir;
  for (const std::string name : {"consolidated.safetensors", "adapter_model.safetensors", "model.fp16.safetensors",
                                 "consolidated-1-of-2.safetensors", "consolidated-2-of-2.safetensors"}) {
    static_cast<void>(dir.write(name, u8_file({{"a", "no"}})));
  }
  static_cast<void>(dir.write("m-1.safetensors", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("model.safetensors.index.json", index_json({{"a", "m-1.safetensors"}})));
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"a", "x"}}));
}

TEST(safetensors_folder, resolves_to_an_index_of_a_variant) {
  const temp_dir dir;
  static_cast<void>(dir.write("m.fp16-1-of-1.safetensors", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("m.safetensors.index.fp16.json", index_json({{"a", "m.fp16-1-of-1.safetensors"}})));
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"a", "x"}}));
}

TEST(safetensors_folder, an_index_and_the_files_it_names_are_one_checkpoint) {
  const temp_dir dir;
  static_cast<void>(dir.write("model.safetensors", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("model.safetensors.index.json", index_json({{"a", "model.safetensors"}})));
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"a", "x"}}));

  const temp_dir parts;
  static_cast<void>(parts.write("model-1-of-2.safetensors", u8_file({{"a", "x"}})));
  static_cast<void>(parts.write("model-2-of-2.safetensors", u8_file({{"b", "y"}})));
  static_cast<void>(parts.write("model.safetensors.index.json",
                                index_json({{"a", "model-1-of-2.safetensors"}, {"b", "model-2-of-2.safetensors"}})));
  EXPECT_EQ(all_of(open_safetensors(parts.path())), (contents{{"a", "x"}, {"b", "y"}}));
}

TEST(safetensors_folder, does_not_take_indexes_of_other_formats) {
  const temp_dir dir;
  static_cast<void>(dir.write("model.safetensors", u8_file({{"a", "x"}})));
  for (const std::string name : {"pytorch_model.bin.index.json", "flax_model.msgpack.index.json",
                                 "tf_model.h5.index.json", "model.index.json"}) {
    static_cast<void>(dir.write(name, index_json({{"a", "other"}})));
  }
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"a", "x"}}));
}

TEST(safetensors_folder, sees_neither_hidden_files_nor_what_is_no_regular_file) {
  const temp_dir dir;
  static_cast<void>(dir.write("blob", u8_file({{"a", "x"}})));
  fs::create_symlink("blob", dir / "model.safetensors");
  static_cast<void>(dir.write("._model.safetensors", "junk"));
  fs::create_directory(dir / "folder.safetensors");
  fs::create_directory(dir / "model.safetensors.index.json");
  ASSERT_EQ(::mkfifo((dir / "fifo.safetensors").c_str(), 0600), 0);
  ASSERT_EQ(::mkfifo((dir / "fifo.safetensors.index.json").c_str(), 0600), 0);
  fs::create_symlink("folder.safetensors", dir / "link.safetensors");
  fs::create_symlink("nowhere", dir / "dangling.safetensors");
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"a", "x"}}));
}

// -- numbered parts without an index

TEST(safetensors_parts, all_of_them_are_loaded_in_order) {
  const temp_dir dir;
  for (const int number : {10, 9, 1, 3, 2, 4, 5, 6, 7, 8}) {
    static_cast<void>(dir.write(concat("m-", number, "-of-10.safetensors"),
                                u8_file({{concat("t", number), concat("content ", number)}})));
  }
  static_cast<void>(dir.write("config.json", "{}"));
  contents expected;
  for (int number = 1; number <= 10; ++number) {
    expected.emplace_back(concat("t", number), concat("content ", number));
  }
  EXPECT_EQ(all_of(open_safetensors(dir.path())), expected);
}

TEST(safetensors_parts, may_be_counted_from_0) {
  const temp_dir dir;
  static_cast<void>(dir.write("m-0-of-2.safetensors", u8_file({{"b", "y"}})));
  static_cast<void>(dir.write("m-1-of-2.safetensors", u8_file({{"a", "x"}})));
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"b", "y"}, {"a", "x"}}));
  static_cast<void>(dir.write("m-2-of-2.safetensors", u8_file({{"c", "z"}})));
  expect_rejected(dir.path(), "holds 2 checkpoints");
}

TEST(safetensors_parts, a_hole_is_named) {
  const temp_dir dir;
  static_cast<void>(dir.write("model-00001-of-00003.safetensors", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("model-00003-of-00003.safetensors", u8_file({{"c", "z"}})));
  expect_rejected(dir.path(), "and not all of them: 1 of 3 parts absent: model-00002-of-00003.safetensors; download");
  fs::remove(dir / "model-00001-of-00003.safetensors");
  expect_rejected(dir.path(),
                  "2 of 3 parts absent: model-00001-of-00003.safetensors, model-00002-of-00003.safetensors");
  static_cast<void>(dir.write("model-00001-of-00003.safetensors", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("model-00002-of-00003.safetensors", u8_file({{"b", "y"}})));
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"a", "x"}, {"b", "y"}, {"c", "z"}}));
}

TEST(safetensors_parts, the_list_of_holes_is_short) {
  const temp_dir dir;
  static_cast<void>(dir.write("m-00007-of-18446744073709551615.safetensors", u8_file({{"a", "x"}})));
  expect_rejected(dir.path(), "m-00021-of-18446744073709551615.safetensors and 18446744073709551594 more");
}

TEST(safetensors_parts, of_which_two_hold_a_tensor_are_an_error_that_names_both) {
  const temp_dir dir;
  static_cast<void>(dir.write("m-1-of-2.safetensors", u8_file({{"b", "x"}, {"a", "x"}})));
  static_cast<void>(dir.write("m-2-of-2.safetensors", u8_file({{"a", "y"}})));
  expect_error(errc::invalid_file, dir / "m-1-of-2.safetensors",
               concat("tensor \"a\" is in this file and in ", dir / "m-2-of-2.safetensors"),
               [&] { static_cast<void>(open_safetensors(dir.path())); });
}

// -- two checkpoints

TEST(safetensors_folder, with_several_files_and_no_index_is_an_error_that_lists_them) {
  const temp_dir dir;
  static_cast<void>(dir.write("b.safetensors", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("a.safetensors", u8_file({{"a", "y"}})));
  static_cast<void>(dir.write("config.json", "{}"));
  expect_rejected(dir.path(), "holds 2 checkpoints, give the path of the one to load: a.safetensors, b.safetensors");
  EXPECT_EQ(all_of(open_safetensors(dir / "a.safetensors")), (contents{{"a", "y"}}));
}

TEST(safetensors_folder, with_several_indexes_is_an_error_that_lists_them) {
  const temp_dir dir;
  static_cast<void>(dir.write("1", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("b.safetensors.index.json", index_json({{"a", "1"}})));
  static_cast<void>(dir.write("a.safetensors.index.fp16.json", index_json({{"a", "1"}})));
  expect_rejected(dir.path(),
                  "holds 2 checkpoints, give the path of the one to load: a.safetensors.index.fp16.json, "
                  "b.safetensors.index.json");
  EXPECT_EQ(all_of(open_safetensors(dir / "a.safetensors.index.fp16.json")), (contents{{"a", "x"}}));
}

TEST(safetensors_folder, an_adapter_beside_the_model_does_not_pass_for_it) {
  const temp_dir dir;
  static_cast<void>(dir.write("adapter_model-1-of-1.safetensors", u8_file({{"lora", "l"}})));
  static_cast<void>(
      dir.write("adapter_model.safetensors.index.json", index_json({{"lora", "adapter_model-1-of-1.safetensors"}})));
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"lora", "l"}}));  // alone it is the only checkpoint
  static_cast<void>(dir.write("model.safetensors", u8_file({{"a", "x"}})));
  expect_rejected(dir.path(),
                  "holds 2 checkpoints, give the path of the one to load: adapter_model.safetensors.index.json, "
                  "model.safetensors");
  EXPECT_EQ(all_of(open_safetensors(dir / "model.safetensors")), (contents{{"a", "x"}}));
  EXPECT_EQ(all_of(open_safetensors(dir / "adapter_model.safetensors.index.json")), (contents{{"lora", "l"}}));
}

TEST(safetensors_folder, the_parts_of_a_model_beside_an_index_that_does_not_name_them_are_a_second_checkpoint) {
  const temp_dir dir;
  static_cast<void>(dir.write("adapter.safetensors", u8_file({{"lora", "l"}})));
  static_cast<void>(dir.write("adapter.safetensors.index.json", index_json({{"lora", "adapter.safetensors"}})));
  static_cast<void>(dir.write("model-1-of-2.safetensors", u8_file({{"a", "x"}})));
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"lora", "l"}}));  // what is left of another model
  static_cast<void>(dir.write("model-2-of-2.safetensors", u8_file({{"b", "y"}})));
  expect_rejected(dir.path(),
                  "holds 2 checkpoints, give the path of the one to load (numbered parts without an index: put them "
                  "into a folder of their own): adapter.safetensors.index.json, model-*-of-2.safetensors (2 parts)");
  // as it says
  fs::create_directory(dir / "own");
  for (const std::string name : {"model-1-of-2.safetensors", "model-2-of-2.safetensors"}) {
    fs::rename(dir / name, dir / ("own/" + name));
  }
  EXPECT_EQ(all_of(open_safetensors(dir / "own")), (contents{{"a", "x"}, {"b", "y"}}));
}

TEST(safetensors_folder, a_file_beside_parts_with_holes_is_an_error_that_names_the_holes) {
  const temp_dir dir;
  static_cast<void>(dir.write("model.safetensors", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("old-2-of-2.safetensors", u8_file({{"b", "y"}})));
  expect_rejected(dir.path(),
                  "model.safetensors, old-*-of-2.safetensors (1 of 2 parts absent: old-1-of-2.safetensors)");
}

TEST(safetensors_folder, without_a_checkpoint_is_an_error_that_lists_what_it_holds) {
  const temp_dir dir;
  expect_rejected(dir.path(), "this one holds nothing");
  static_cast<void>(dir.write("pytorch_model.bin", ""));
  static_cast<void>(dir.write("config\n.json", ""));
  expect_rejected(dir.path(), R"(this one holds config\n.json, pytorch_model.bin)");
  fs::create_symlink("nowhere", dir / "model.safetensors");
  fs::create_directory(dir / "f.safetensors");
  expect_rejected(dir.path(), "f.safetensors (a folder), model.safetensors (a dangling link), pytorch_model.bin");
}

TEST(safetensors_folder, the_list_in_an_error_is_short) {
  const temp_dir dir;
  for (int i = 100; i < 150; ++i) {
    static_cast<void>(dir.write(concat(i, ".safetensors"), ""));
  }
  expect_rejected(dir.path(), "118.safetensors, 119.safetensors and 30 more");
}

// -- a part is not the whole

TEST(open_safetensors, one_part_is_an_error_that_says_what_to_give_instead) {
  const temp_dir dir;
  static_cast<void>(dir.write("model-00001-of-00002.safetensors", u8_file({{"a", "x"}})));
  static_cast<void>(dir.write("model-00002-of-00002.safetensors", u8_file({{"b", "y"}})));
  const std::string part = dir / "model-00002-of-00002.safetensors";
  expect_rejected(part, concat("is part 2 of 2 of a checkpoint; give their folder, ", dir.path(),
                               ", or safetensors_file{path} for this part alone"));
  // as it says
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"a", "x"}, {"b", "y"}}));
  EXPECT_EQ(all_of(safetensors_file{part}()), (contents{{"b", "y"}}));

  const fs::path before = fs::current_path();
  fs::current_path(dir.path());
  expect_rejected("model-00001-of-00002.safetensors", "give their folder, .,");
  fs::current_path(before);
}

TEST(open_safetensors, the_only_part_is_the_whole) {
  const temp_dir dir;
  const std::string path = dir.write("model-00001-of-00001.safetensors", u8_file({{"a", "x"}}));
  EXPECT_EQ(all_of(open_safetensors(path)), (contents{{"a", "x"}}));
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"a", "x"}}));
}

TEST(open_safetensors, the_shards_of_one_rank_are_no_checkpoint) {
  const std::string metadata = R"({"format":"fsdpinit.shards","rank":"0","shards":"2"})";
  const temp_dir dir;
  const std::string path = dir.write("rank-00000-of-00002.safetensors", u8_file({{"a", "x"}}, metadata));
  const std::string renamed = dir.write("copy", u8_file({{"a", "x"}}, metadata));
  const auto expect_no_checkpoint = [](const std::string& opened, const std::string& named) {
    expect_error(errc::invalid_file, named, "holds the shards of one rank, as its metadata say, and is no checkpoint",
                 [&] { static_cast<void>(open_safetensors(opened)); });
  };
  expect_no_checkpoint(path, path);
  expect_no_checkpoint(renamed, renamed);
  static_cast<void>(dir.write("rank-00001-of-00002.safetensors", u8_file({{"a", "y"}}, metadata)));
  expect_no_checkpoint(dir.path(), path);
  expect_no_checkpoint(dir.write("i.json", index_json({{"a", "copy"}})), renamed);
  EXPECT_EQ(all_of(safetensors_file{path}()), (contents{{"a", "x"}}));
}

TEST(open_safetensors, the_only_shard_is_the_whole) {
  const temp_dir dir;
  const std::string bytes = u8_file({{"a", "x"}}, R"({"format":"fsdpinit.shards","rank":"0","shards":"1"})");
  const std::string path = dir.write("rank-00000-of-00001.safetensors", bytes);
  EXPECT_EQ(all_of(open_safetensors(path)), (contents{{"a", "x"}}));
  EXPECT_EQ(all_of(open_safetensors(dir.path())), (contents{{"a", "x"}}));
  const std::string of_two_replicas = dir.write("rank-00000-of-00002.safetensors", bytes);
  EXPECT_EQ(all_of(open_safetensors(of_two_replicas)), (contents{{"a", "x"}}));
}

// -- what is no safetensors file

TEST(open_safetensors, what_a_file_is_instead_is_said) {
  const temp_dir dir;
  expect_rejected(dir.write("a", "<!doctype html>\n<title>Sign in</title>"), "is an HTML page");
  expect_rejected(dir.write("b", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "`git lfs pull`");
  expect_rejected(dir.write("c", std::string(100000, '\0')), "begins with 512 zeros");
  expect_rejected(dir.write("d", std::string("\x1f\x8b\x08\0\0\0\0\0\0\x03", 10) + std::string(600000, '\xe7')),
                  "is compressed by gzip");
  expect_rejected(dir.write("e", std::string("PK\3\4", 4) + std::string(50, '\1')), "is a zip archive");
  expect_rejected(dir.write("f", "{}"), "is JSON");
  expect_rejected(dir.write("g.safetensors.index.json", "<html>"), "is an HTML page");
  expect_rejected(dir.write("h.json", "{}"), "has no weight_map");
}

TEST(open_safetensors, the_header_of_a_safetensors_file_that_is_damaged_is_told_as_such) {
  const temp_dir dir;
  std::string bytes = u8_file({{"a", "x"}});
  bytes.insert(9, 1, ',');
  ++bytes[0];
  expect_rejected(dir.write("a", bytes), "the header is not valid JSON");
}

}  // namespace
}  // namespace fsdpinit::safetensors_folder_test
