#pragma once

/// \file
/// libtorch: its modules, its optimizers, its process groups.

#include <fsdpinit/adapters/c10d_communicator.hpp>
#include <fsdpinit/adapters/c10d_store_control.hpp>
#include <fsdpinit/adapters/torch_module.hpp>
#include <fsdpinit/adapters/torch_optimizer.hpp>
#include <fsdpinit/adapters/torch_skip_init.hpp>
