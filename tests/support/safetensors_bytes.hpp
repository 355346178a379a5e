#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fsdpinit::testing_support {

/// The bytes of a safetensors file, right or wrong: `json` as it stands, its length before it (`announced` instead
/// where given), `data` behind it.
[[nodiscard]] inline std::string safetensors_bytes(std::string_view json, std::string_view data = {},
                                                   std::optional<std::uint64_t> announced = std::nullopt) {
  const std::uint64_t length = announced.value_or(json.size());
  std::string out;
  for (std::size_t i = 0; i < 8; ++i) {
    out += static_cast<char>((length >> (8 * i)) & 0xffU);
  }
  out += json;
  out += data;
  return out;
}

/// `"<name>":{...}`, the parts as they stand.
[[nodiscard]] inline std::string safetensors_entry_json(std::string_view name, std::string_view dtype,
                                                        std::string_view shape, std::string_view data_offsets) {
  std::string out = "\"";
  out += name;
  out += R"(":{"dtype":")";
  out += dtype;
  out += R"(","shape":)";
  out += shape;
  out += R"(,"data_offsets":)";
  out += data_offsets;
  return out + "}";
}

}  // namespace fsdpinit::testing_support
