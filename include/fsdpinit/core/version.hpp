#pragma once

#include <fsdpinit/core/compiler.hpp>

/// \file
/// The version of the library, for `#if`. It is set here alone: CMake, and with it every package, reads this file. As long as it is 0.x,
/// a new minor version may break what the last one promised.

#define FSDPINIT_VERSION_MAJOR 0
#define FSDPINIT_VERSION_MINOR 2
#define FSDPINIT_VERSION_PATCH 0

/// One number that grows with each version, such as 10203 for 1.2.3.
#define FSDPINIT_VERSION (10000 * FSDPINIT_VERSION_MAJOR + 100 * FSDPINIT_VERSION_MINOR + FSDPINIT_VERSION_PATCH)
