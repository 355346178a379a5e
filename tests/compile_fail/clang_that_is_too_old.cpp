// expect: fsdpinit: Clang 16 or newer is needed
#ifndef FSDPINIT_CONTROL
#undef __clang__
#undef __clang_major__
#undef __apple_build_version__
#define __clang__ 1
#define __clang_major__ 15
#endif
#include <fsdpinit/core/bytes.hpp>
