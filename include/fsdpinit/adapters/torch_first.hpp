#pragma once

#include <ATen/core/ivalue.h>

/// \file
/// Before any other header of libtorch: without it those of 1.13 do not compile as C++20, where std::vector asks for complete types
/// earlier than they have them (clang; nvcc).
