#pragma once

#include <fsdpinit/core/dtype.hpp>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

/// \file
/// Rules by which the tensors of a model are made of those of a checkpoint, as values: fused, stacked, transposed, padded.
///
///     using namespace fsdpinit::rules;
///     const rule_set rules{
///         make("{p...}.qkv_proj.weight", concat(0, {"{p...}.q_proj.weight", "{p...}.k_proj.weight", "{p...}.v_proj.weight"})),
///         make("{p...}.experts.down_proj", stack("e", "{p...}.experts.{e}.down_proj.weight")),
///         make("wte.weight", pad(0, multiple_of(64), "transformer.wte.weight")), drop("{p...}.rotary_emb.inv_freq")};
///
/// In a name a variable is a whole part between dots: `{i}` stands for one part, `{p...}` for one or more. A variable has the same
/// value everywhere in a rule. Nothing is looked at before the rules meet a checkpoint. \see resolve
namespace fsdpinit::rules {

/// The next multiple, as what `pad` pads to.
struct multiple_of {
  explicit constexpr multiple_of(std::uint64_t number) noexcept : value(number) {}
  std::uint64_t value;
  friend bool operator==(const multiple_of&, const multiple_of&) = default;
};

// What a node does with its parts. A name has none, `concatenated` any number of them, all others one.
struct named {
  std::string name;
};
struct concatenated {
  std::uint64_t dim;
};
struct stacked {
  std::string over;
  std::uint64_t dim;
};
struct sliced {
  std::uint64_t dim;
  std::uint64_t begin;
  std::uint64_t end;
};
struct chunked {
  std::uint64_t dim;
  std::uint64_t of;
  std::uint64_t index;
};
struct permuted {
  std::vector<std::uint64_t> dims;
};
struct rearranged {
  std::string pattern;
  std::vector<std::pair<std::string, std::uint64_t>> sizes;
};
struct padded {
  std::uint64_t dim;
  std::variant<std::uint64_t, multiple_of> to;
  double value;
};
struct converted_to {
  fsdpinit::dtype dtype;
};
using operation =
    std::variant<named, concatenated, stacked, sliced, chunked, permuted, rearranged, padded, converted_to>;

/// What a tensor is made of: a stored tensor, by its name, or an operation on other nodes.
struct node {
  node(std::string name) : does(named{std::move(name)}) {}  // NOLINT(google-explicit-constructor)
  node(const char* name) : node(std::string(name)) {}       // NOLINT(google-explicit-constructor)
  node(operation what, std::vector<node> of) : does(std::move(what)), parts(std::move(of)) {}

  operation does;
  std::vector<node> parts{};
};

/// The parts behind one another.
[[nodiscard]] inline node concat(std::uint64_t dim, std::vector<node> parts) {
  return {concatenated{dim}, std::move(parts)};
}
/// What `part` is for `{over}` = 0, 1, ..., along a new dimension `dim`. `{over}` matches decimal numbers without leading zeros.
[[nodiscard]] inline node stack(std::string over, node part, std::uint64_t dim = 0) {
  return {stacked{std::move(over), dim}, {std::move(part)}};
}
/// Indices [begin, end) of `dim`; may be empty.
[[nodiscard]] inline node slice(std::uint64_t dim, std::uint64_t begin, std::uint64_t end, node part) {
  return {sliced{dim, begin, end}, {std::move(part)}};
}
/// Of `of` equal parts along `dim` the one at `index`.
[[nodiscard]] inline node chunk(std::uint64_t dim, std::uint64_t of, std::uint64_t index, node part) {
  return {chunked{dim, of, index}, {std::move(part)}};
}
/// Dimension i of the result is `dims[i]` of the part; `{1, 0}` transposes.
[[nodiscard]] inline node permute(std::vector<std::uint64_t> dims, node part) {
  return {permuted{std::move(dims)}, {std::move(part)}};
}
/// einops' notation, `"(h two d) k -> (h d two) k"`; sizes that follow from the shape may be left out.
[[nodiscard]] inline node rearrange(std::string pattern, node part,
                                    std::vector<std::pair<std::string, std::uint64_t>> sizes = {}) {
  return {rearranged{std::move(pattern), std::move(sizes)}, {std::move(part)}};
}
/// `value` behind the part, until `dim` is `to` long.
[[nodiscard]] inline node pad(std::uint64_t dim, std::uint64_t to, node part, double value = 0) {
  return {padded{dim, to, value}, {std::move(part)}};
}
[[nodiscard]] inline node pad(std::uint64_t dim, multiple_of to, node part, double value = 0) {
  return {padded{dim, to, value}, {std::move(part)}};
}
[[nodiscard]] inline node cast(fsdpinit::dtype dtype, node part) { return {converted_to{dtype}, {std::move(part)}}; }

struct rule {
  std::string name;            ///< what is made, or dropped
  std::optional<node> from{};  ///< of stored tensors, never of made ones; none: the rule drops
  bool may_match_nothing = false;
  bool shares = false;  ///< what it uses may be used again, by rules that share too
};

[[nodiscard]] inline rule make(std::string name, node from) {
  return {.name = std::move(name), .from = std::move(from)};
}
/// What no rule uses of the tensors of that name, wherever the rule stands.
[[nodiscard]] inline rule drop(std::string name) { return {.name = std::move(name)}; }
/// The same rule, where it is no error that it matches nothing.
[[nodiscard]] inline rule optional(rule which) {
  which.may_match_nothing = true;
  return which;
}
/// The same rule, where each stored element that it uses may be used again, by itself or by other rules that share.
[[nodiscard]] inline rule shared(rule which) {
  which.shares = true;
  return which;
}

/// What becomes of stored tensors that no rule names.
enum class rest : std::uint8_t { keep, drop, error };

/// Tried in order: the first that makes a name wins.
struct rule_set {
  rule_set(std::initializer_list<rule> in_order) : rules(in_order) {}
  explicit rule_set(std::vector<rule> in_order, rest of_others = rest::keep, std::string name_of_file = {})
      : rules(std::move(in_order)), others(of_others), file(std::move(name_of_file)) {}

  std::vector<rule> rules;
  rest others = rest::keep;
  std::string file{};  ///< that they are from, for errors; may be empty
};

/// The rules of both, those of `first` first; what else there is is that of `first`.
[[nodiscard]] inline rule_set operator+(rule_set first, const rule_set& second) {
  first.rules.insert(first.rules.end(), second.rules.begin(), second.rules.end());
  return first;
}

}  // namespace fsdpinit::rules
