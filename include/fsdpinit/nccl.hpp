#pragma once

/// \file
/// `fsdpinit::nccl`: ranks with a GPU each.

#include <fsdpinit/communicators/file_rendezvous.hpp>
#include <fsdpinit/communicators/nccl_communicator.hpp>
#include <fsdpinit/communicators/nccl_control.hpp>
#include <fsdpinit/communicators/nccl_runtime.hpp>
#include <fsdpinit/cuda.hpp>
