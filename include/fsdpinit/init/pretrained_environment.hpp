#pragma once

#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/init/pretrained_context.hpp>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include <sys/auxv.h>
#include <unistd.h>

/// \file
/// The two environment variables through which accelerate, and what reads its variables, is told to load pretrained weights
/// on one rank alone.
///
/// Nothing here is safe beside other threads: `setenv` and `unsetenv` may move the environment while another thread reads
/// it, and the C library has no lock for that. Export and read on the program's first thread, before it starts ranks,
/// and hand ranks the context as a value.

namespace fsdpinit {

inline constexpr const char* use_fsdp_variable = "ACCELERATE_USE_FSDP";
inline constexpr const char* efficient_loading_variable = "FSDP_CPU_RAM_EFFICIENT_LOADING";

namespace detail {

/// Says which process exports the variables right now; it is unset otherwise.
inline constexpr const char* exporting_process_variable = "FSDPINIT_EXPORTING_PROCESS";

[[nodiscard]] inline std::optional<std::string> environment_value(const char* variable) {
  const char* const value = std::getenv(variable);  // NOLINT(concurrency-mt-unsafe): documented above
  return value == nullptr ? std::nullopt : std::optional<std::string>(value);
}

/// 0, or errno.
[[nodiscard]] inline int set_environment(const char* variable, const char* value) noexcept {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): documented above
  return (value == nullptr ? ::unsetenv(variable) : ::setenv(variable, value, 1)) == 0 ? 0 : errno;
}

/// What no other process has, though it inherits this one's environment: neither a child, nor a program that replaces
/// this one and keeps its process id. The kernel gives every program that is started 16 random bytes. The C library
/// guards stacks and pointers with halves of them, so that they are shown folded together, which tells neither.
[[nodiscard]] inline std::string this_process() {
  std::uint32_t folded = 0;
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the kernel's own way to pass it
  const auto* const random = reinterpret_cast<const unsigned char*>(::getauxval(AT_RANDOM));
  for (std::size_t i = 0; random != nullptr && i < 16; ++i) {
    folded ^= static_cast<std::uint32_t>(random[i]) << (8 * (i % 4));
  }
  return concat(::getpid(), "-", folded);
}

/// accelerate's `str_to_bool`, but for its error.
[[nodiscard]] inline bool flag_from_environment(const char* variable) {
  const std::optional<std::string> value = environment_value(variable);
  if (!value) {
    return false;
  }
  std::string lower = *value;
  for (char& c : lower) {
    c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  for (const std::string_view accepted : {"1", "true", "t", "yes", "y", "on"}) {
    if (lower == accepted) {
      return true;
    }
  }
  for (const std::string_view accepted : {"0", "false", "f", "no", "n", "off"}) {
    if (lower == accepted) {
      return false;
    }
  }
  throw error(errc::invalid_argument, variable,
              concat("the environment has '", printable(*value),
                     "', which is neither true nor false; use 1, true, t, yes, y or on, 0, false, f, no, n or off, or "
                     "unset it"));
}

}  // namespace detail

/// Undoes `export_environment()` when it goes, also as an exception passes: variables get their former values back, or
/// are unset.
class environment_export {
 public:
  environment_export(const environment_export&) = delete;
  environment_export& operator=(const environment_export&) = delete;
  ~environment_export() { restore(changes_.size()); }

 private:
  friend environment_export export_environment();

  struct change {
    const char* variable;
    std::optional<std::string> former{};
  };

  environment_export() {
    const std::string me = detail::this_process();
    for (change& each : changes_) {
      each.former = detail::environment_value(each.variable);
    }
    if (changes_[0].former == me) {
      throw error(errc::invalid_argument, use_fsdp_variable,
                  "this process exports the environment already; export it once, around everything that needs it");
    }
    for (std::size_t i = 0; i < changes_.size(); ++i) {
      if (const int failed = detail::set_environment(changes_[i].variable, i == 0 ? me.c_str() : "true")) {
        restore(i);
        throw error(errc::out_of_memory, changes_[i].variable, "the environment variable cannot be set",
                    {.native_code = failed});
      }
    }
  }

  /// The first `count` of them. A destructor can tell nobody: for want of memory a former value may not come back.
  void restore(std::size_t count) noexcept {
    while (count-- != 0) {
      const change& each = changes_[count];
      static_cast<void>(detail::set_environment(each.variable, each.former ? each.former->c_str() : nullptr));
    }
  }

  std::array<change, 3> changes_{{{.variable = detail::exporting_process_variable},
                                  {.variable = use_fsdp_variable},
                                  {.variable = efficient_loading_variable}}};
};

/// Sets ACCELERATE_USE_FSDP and FSDP_CPU_RAM_EFFICIENT_LOADING to `true`, for this process and those it starts, until the
/// returned guard goes.
///
/// Once per process, outside rank threads (see above). Child processes inherit the variables, as they should:
/// `pretrained_context_from_environment()` is active there, and a child may export them itself; it undoes no more than
/// that.
/// \throws error{invalid_argument} while this process exports them already; error{out_of_memory}.
[[nodiscard]] inline environment_export export_environment() { return {}; }

/// The context that the environment asks for: active if both variables are true. True: 1, true, t, yes, y, on; false: 0,
/// false, f, no, n, off, in any case, or unset: accelerate's rule.
///
/// To be called outside rank threads, which get the context as a value.
/// \throws error{invalid_argument} naming the variable and its value, where it is anything else (an empty value, say).
[[nodiscard]] inline pretrained_load_context pretrained_context_from_environment(std::size_t source_rank = 0) {
  const bool use_fsdp = detail::flag_from_environment(use_fsdp_variable);
  const bool efficient = detail::flag_from_environment(efficient_loading_variable);  // checked, whatever the other says
  return {.active = use_fsdp && efficient, .source_rank = source_rank};
}

}  // namespace fsdpinit
