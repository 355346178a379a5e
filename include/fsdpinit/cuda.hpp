#pragma once

/// \file
/// `fsdpinit::cuda`: shards in GPU memory.

#include <fsdpinit/communicators/cuda_threads.hpp>
#include <fsdpinit/memory/cuda_api.hpp>
#include <fsdpinit/memory/cuda_memory.hpp>
#include <fsdpinit/memory/cuda_runtime.hpp>
#include <fsdpinit/memory/cuda_stream.hpp>

namespace fsdpinit {

using cuda_threads_communicator = basic_cuda_threads_communicator<cuda_runtime>;

}  // namespace fsdpinit
