// expect: fsdpinit: GCC 12 or newer is needed
// The standard library's headers come first: it does not know what Clang is either that calls itself GCC 11.
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#ifndef FSDPINIT_CONTROL
#undef __apple_build_version__
#undef __clang__
#undef __GNUC__
#define __GNUC__ 11
#endif
#include <fsdpinit/core/text.hpp>
