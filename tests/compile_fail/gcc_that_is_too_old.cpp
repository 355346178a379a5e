// expect: fsdpinit: GCC 12 or newer is needed
#ifndef FSDPINIT_CONTROL
#undef __apple_build_version__
#undef __clang__
#undef __GNUC__
#define __GNUC__ 11
#endif
#include <fsdpinit/core/text.hpp>
