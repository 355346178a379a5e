#include "byte_size.hpp"
#include <fsdpinit/core/bytes.hpp>

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace fsdpinit::tool {

std::optional<std::uint64_t> parse_byte_size(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc()) {
    return std::nullopt;
  }
  std::string unit;
  for (const char letter : text.substr(static_cast<std::size_t>(end - text.data()))) {
    unit += letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
  }
  if (unit.empty() || unit == "b") {
    return value;
  }
  const std::size_t power = std::string_view("kmgt").find(unit.front()) + 1;  // 0: no such letter
  const std::string_view rest = std::string_view(unit).substr(1);
  if (power == 0 || (!rest.empty() && rest != "b" && rest != "ib")) {
    return std::nullopt;
  }
  for (std::size_t i = 0; i < power; ++i) {
    if (!checked_multiply(value, rest == "b" ? 1000 : 1024, value)) {
      return std::nullopt;
    }
  }
  return value;
}

}  // namespace fsdpinit::tool
