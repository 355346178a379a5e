#pragma once

#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/sources/compiled_rules.hpp>
#include <fsdpinit/sources/json_scan.hpp>
#include <fsdpinit/sources/repeated_name.hpp>
#include <fsdpinit/sources/rules.hpp>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// Rules as a file: `{"rules": [{"make": NAME, "from": NODE}, {"drop": NAME}, ...], "rest": "keep" | "drop" | "error"}`.
/// \see parse_rules

namespace fsdpinit::detail {

/// A JSON value with the keys of objects as they are written, so that repeated ones are seen.
struct json_value {
  enum class kind : std::uint8_t { string, number, other, array, object };

  kind is = kind::other;
  std::string text{};  ///< a string, unescaped; any other scalar as it is written
  std::vector<std::pair<std::string, json_value>> members{};  ///< keys of arrays are empty

  [[nodiscard]] std::string shown() const {
    switch (is) {
      case kind::array:
        return "an array";
      case kind::object:
        return "an object";
      case kind::string:
        return concat("\"", printable(text), "\"");
      default:
        return printable(text);
    }
  }
};

class json_tree_handler {
 public:
  void key(std::string& name) { key_ = std::move(name); }
  void scalar(json_scalar value) {
    if (value.text != nullptr) {
      add({.is = json_value::kind::string, .text = std::move(*value.text)});
    } else {
      add({.is = value.number != nullptr ? json_value::kind::number : json_value::kind::other, .text = value.shown()});
    }
  }
  void begin(bool object) { add({.is = object ? json_value::kind::object : json_value::kind::array}); }
  void end(std::size_t depth) { open_.resize(depth); }

  json_value root{};

 private:
  void add(json_value value) {
    const bool nests = value.is == json_value::kind::array || value.is == json_value::kind::object;
    json_value& here =
        open_.empty() ? root : open_.back()->members.emplace_back(std::exchange(key_, {}), json_value()).second;
    here = std::move(value);
    if (nests) {
      open_.push_back(&here);  // its siblings come when it is through: it stays where it is as long as it is open
    }
  }

  std::vector<json_value*> open_;
  std::string key_;
};

/// An object of which every key must be known. Texts of errors do not name the file and the rule.
class json_object {
 public:
  /// \throws error{invalid_file} where it is none, has a key that is not in `keys`, or has one twice.
  json_object(const json_value& value, std::string_view what, std::initializer_list<std::string_view> keys)
      : value_(value), what_(what) {
    if (value.is != json_value::kind::object) {
      fail(concat(what, " is ", value.shown(), "; an object is expected"));
    }
    for (const auto& [key, member] : value.members) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
        std::string known;
        for (const std::string_view each : keys) {
          append_to(known, known.empty() ? "" : ", ", each);
        }
        fail(concat(what, " has an unknown key \"", printable(key), "\"; it may have ", known));
      }
      if (find(key) != &member) {
        fail(concat(what, " has \"", key, "\" twice; once is expected"));
      }
    }
  }

  [[nodiscard]] const json_value* find(std::string_view key) const noexcept {
    for (const auto& [name, member] : value_.members) {
      if (name == key) {
        return &member;
      }
    }
    return nullptr;
  }
  [[nodiscard]] const json_value& at(std::string_view key) const {
    const json_value* const found = find(key);
    if (found == nullptr) {
      fail(concat(what_, " has no \"", key, "\"; it is required"));
    }
    return *found;
  }
  [[nodiscard]] const std::string& text(std::string_view key) const {
    const json_value& value = at(key);
    return value.is == json_value::kind::string ? value.text : refuse(key, value, "a string");
  }
  [[nodiscard]] const std::vector<std::pair<std::string, json_value>>& array(std::string_view key) const {
    const json_value& value = at(key);
    if (value.is != json_value::kind::array) {
      refuse(key, value, "an array");
    }
    return value.members;
  }
  [[nodiscard]] std::uint64_t number(std::string_view key) const { return number(key, at(key)); }
  [[nodiscard]] std::uint64_t number(std::string_view key, const json_value& value) const {
    std::uint64_t out = 0;
    if (value.is != json_value::kind::number ||
        std::from_chars(value.text.data(), value.text.data() + value.text.size(), out).ec != std::errc()) {
      refuse(key, value, "an integer from 0 on");
    }
    return out;
  }
  [[nodiscard]] double real(std::string_view key, double if_absent) const {
    const json_value* const value = find(key);
    if (value == nullptr) {
      return if_absent;
    }
    double out = 0;
    const char* const end = value->text.data() + value->text.size();
    const auto read = std::from_chars(value->text.data(), end, out);
    if (value->is == json_value::kind::string || read.ec != std::errc() || read.ptr != end) {
      refuse(key, *value, "a number that a double holds");
    }
    return out;
  }
  [[nodiscard]] bool flag(std::string_view key) const {
    const json_value* const value = find(key);
    if (value == nullptr) {
      return false;
    }
    if (value->is != json_value::kind::other || (value->text != "true" && value->text != "false")) {
      refuse(key, *value, "true or false");
    }
    return value->text == "true";
  }

  [[noreturn]] static void fail(std::string_view text) { throw error(errc::invalid_file, {}, text); }

 private:
  [[noreturn]] const std::string& refuse(std::string_view key, const json_value& value,
                                         std::string_view expected) const {
    fail(concat("\"", key, "\" of ", what_, " is ", value.shown(), "; ", expected, " is expected"));
  }

  const json_value& value_;
  std::string_view what_;
};

/// The type of the safetensors name in small letters, `bf16`.
[[nodiscard]] inline dtype json_dtype(std::string_view text) {
  std::string upper(text);
  const bool has_upper = std::any_of(text.begin(), text.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
  std::transform(text.begin(), text.end(), upper.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  const auto found = parse_dtype(upper);
  if (!found || has_upper) {
    json_object::fail(concat("\"", printable(text), "\" is no dtype; write bf16, f16 or f32, for instance"));
  }
  return *found;
}

[[nodiscard]] inline rules::node json_node(const json_value& value) {
  using rules::node;
  if (value.is == json_value::kind::string) {
    return value.text;
  }
  constexpr std::string_view kinds = "concat, stack, slice, chunk, permute, rearrange, pad or cast";
  if (value.is != json_value::kind::object) {
    json_object::fail(
        concat("a node is ", value.shown(), "; the name of a tensor, or an object with ", kinds, " is expected"));
  }
  const auto has = [&](std::string_view key) {
    return std::any_of(value.members.begin(), value.members.end(), [&](const auto& each) { return each.first == key; });
  };
  if (has("concat")) {
    const json_object object(value, "concat", {"concat", "dim"});
    std::vector<node> parts;
    for (const auto& [key, part] : object.array("concat")) {
      parts.push_back(json_node(part));
    }
    return rules::concat(object.number("dim"), std::move(parts));
  }
  if (has("stack")) {
    const json_object object(value, "stack", {"stack", "over", "dim"});
    return rules::stack(object.text("over"), json_node(object.at("stack")),
                        object.find("dim") != nullptr ? object.number("dim") : 0);
  }
  if (has("slice")) {
    const json_object object(value, "slice", {"slice", "dim", "begin", "end"});
    return rules::slice(object.number("dim"), object.number("begin"), object.number("end"),
                        json_node(object.at("slice")));
  }
  if (has("chunk")) {
    const json_object object(value, "chunk", {"chunk", "dim", "of", "index"});
    return rules::chunk(object.number("dim"), object.number("of"), object.number("index"),
                        json_node(object.at("chunk")));
  }
  if (has("permute")) {
    const json_object object(value, "permute", {"permute", "dims"});
    std::vector<std::uint64_t> dims;
    for (const auto& [key, dim] : object.array("dims")) {
      dims.push_back(object.number("dims", dim));
    }
    return rules::permute(std::move(dims), json_node(object.at("permute")));
  }
  if (has("rearrange")) {
    const json_object object(value, "rearrange", {"rearrange", "pattern", "sizes"});
    std::vector<std::pair<std::string, std::uint64_t>> sizes;
    if (const json_value* const given = object.find("sizes")) {
      if (given->is != json_value::kind::object) {
        json_object::fail(concat("\"sizes\" of rearrange is ", given->shown(), "; an object is expected"));
      }
      for (const auto& [axis, size] : given->members) {
        sizes.emplace_back(axis, object.number("sizes", size));
      }
      if (const std::string* const twice = repeated_name(sizes, &std::pair<std::string, std::uint64_t>::first)) {
        json_object::fail(concat("\"sizes\" of rearrange has \"", printable(*twice), "\" twice; once is expected"));
      }
    }
    return rules::rearrange(object.text("pattern"), json_node(object.at("rearrange")), std::move(sizes));
  }
  if (has("pad")) {
    const json_object object(value, "pad", {"pad", "dim", "to", "multiple", "value"});
    if ((object.find("to") == nullptr) == (object.find("multiple") == nullptr)) {
      json_object::fail("pad has both \"to\" and \"multiple\", or neither; give one of them");
    }
    node part = json_node(object.at("pad"));
    const double filler = object.real("value", 0);
    return object.find("to") != nullptr
               ? rules::pad(object.number("dim"), object.number("to"), std::move(part), filler)
               : rules::pad(object.number("dim"), rules::multiple_of(object.number("multiple")), std::move(part),
                            filler);
  }
  if (has("cast")) {
    const json_object object(value, "cast", {"cast", "dtype"});
    return rules::cast(json_dtype(object.text("dtype")), json_node(object.at("cast")));
  }
  json_object::fail(concat("a node has none of ", kinds, value.members.empty() ? "" : ", but \"",
                           value.members.empty() ? "" : printable(value.members.front().first),
                           value.members.empty() ? "" : "\"", "; exactly one of them is expected"));
}

[[nodiscard]] inline rules::rule json_rule(const json_value& value) {
  const bool drops =
      value.is == json_value::kind::object &&
      std::any_of(value.members.begin(), value.members.end(), [](const auto& each) { return each.first == "drop"; });
  if (drops) {
    const json_object object(value, "the rule", {"drop", "optional"});
    return {.name = object.text("drop"), .may_match_nothing = object.flag("optional")};
  }
  const json_object object(value, "the rule", {"make", "from", "optional", "shared"});
  return {.name = object.text("make"),
          .from = json_node(object.at("from")),
          .may_match_nothing = object.flag("optional"),
          .shares = object.flag("shared")};
}

/// `rule 3`, and its name where it has one
[[nodiscard]] inline std::string json_rule_text(std::size_t number, const json_value& value) {
  std::string out = concat("rule ", number);
  for (const auto& [key, member] : value.members) {
    if ((key == "make" || key == "drop") && member.is == json_value::kind::string) {
      append_to(out, " (", key, " \"", printable(member.text), "\")");
      break;
    }
  }
  return out;
}

}  // namespace fsdpinit::detail

namespace fsdpinit {

/// The rules in `text`, which `file` holds. They are the same as those that `make` and `drop` return:
///
///     {"rules": [{"make": NAME, "from": NODE, "optional": true, "shared": true}, {"drop": NAME, "optional": true}, ...],
///      "rest": "keep" | "drop" | "error"}
///     NODE = NAME
///          | {"concat": [NODE, ...], "dim": D}
///          | {"stack": NODE, "over": "e", "dim": D}              dim 0 if absent
///          | {"slice": NODE, "dim": D, "begin": A, "end": B}
///          | {"chunk": NODE, "dim": D, "of": N, "index": K}
///          | {"permute": NODE, "dims": [...]}
///          | {"rearrange": NODE, "pattern": "(h two d) k -> (h d two) k", "sizes": {"h": 32, "two": 2}}
///          | {"pad": NODE, "dim": D, "to": N, "value": V}        or "multiple": M in place of "to"; value 0 if absent
///          | {"cast": NODE, "dtype": "bf16"}
///
/// Cost: linear in the text.
/// \throws error{invalid_file} naming file and rule, in one line: no JSON, an unknown, repeated or missing key, a value of another kind,
/// and what is wrong with a rule whatever the checkpoint.
[[nodiscard]] inline rules::rule_set parse_rules(std::string_view file, std::string_view text) {
  detail::json_tree_handler tree;
  detail::scan_json(file, "the map", text, tree);
  std::string where;
  try {
    const detail::json_object top(tree.root, "the map", {"rules", "rest"});
    rules::rule_set out({}, rules::rest::keep, std::string(file));
    for (const auto& [key, each] : top.array("rules")) {
      where = concat(detail::json_rule_text(out.rules.size() + 1, each), ": ");
      out.rules.push_back(detail::json_rule(each));
      static_cast<void>(detail::compiled_rule(out.rules.back()));
    }
    where.clear();
    if (top.find("rest") != nullptr) {
      const std::string& others = top.text("rest");
      if (others != "keep" && others != "drop" && others != "error") {
        detail::json_object::fail(
            concat("\"rest\" of the map is \"", printable(others), "\"; keep, drop or error is expected"));
      }
      out.others = others == "keep" ? rules::rest::keep : others == "drop" ? rules::rest::drop : rules::rest::error;
    }
    return out;
  } catch (const error& wrong) {
    throw error(errc::invalid_file, file, where + std::string(wrong.text()));
  }
}

}  // namespace fsdpinit
