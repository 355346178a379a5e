#pragma once

/// \file
/// `fsdpinit::cuda`: shards in GPU memory.

#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/memory/cuda_runtime.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>
