#pragma once

/// \file
/// The compilers that this library is compiled by. Included by every header that includes no other one, so that an older compiler
/// says this before anything else. Apple counts its versions of Clang by itself: its 15 is made from Clang 16.

#if defined(__apple_build_version__)
#if __clang_major__ < 15
#error fsdpinit: Apple Clang 15 or newer is needed, for C++20; this one is older
#endif
#elif defined(__clang__)
#if __clang_major__ < 16
#error fsdpinit: Clang 16 or newer is needed, for C++20; this one is older
#endif
#elif defined(__GNUC__) && __GNUC__ < 12
#error fsdpinit: GCC 12 or newer is needed, for C++20; this one is older
#endif

// The library is header-only. A program that links fsdpinit::compiled instead has FSDPINIT_COMPILED defined by it: then the engine behind
// initialize(), load_pretrained() and calibrate(), predict(), and the texts of errors are only declared where these are included, and are
// compiled once, in compiled.cpp.
#if !defined(FSDPINIT_COMPILED)
#define FSDPINIT_INLINE inline
#define FSDPINIT_DEFINES 1
#elif defined(FSDPINIT_COMPILES)
#define FSDPINIT_INLINE
#define FSDPINIT_DEFINES 1
#else
#define FSDPINIT_INLINE
#define FSDPINIT_DEFINES 0
#endif
