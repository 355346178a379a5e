#pragma once

namespace fsdpinit::testing_support {

/// What is tested is built with a sanitizer: resident memory and faults are the sanitizer's, not the program's.
#ifdef FSDPINIT_SANITIZED
inline constexpr bool is_sanitized = true;
#else
inline constexpr bool is_sanitized = false;
#endif

}  // namespace fsdpinit::testing_support
