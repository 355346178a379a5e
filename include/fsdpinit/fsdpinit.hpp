#pragma once

/// \file
/// What a program needs that initialises a module, but for JSON, fmt, CUDA, MPI and tensor frameworks. Headers of their own, as not
/// all need them: sources/adaptors.hpp, units/sharded_units.hpp, observe/timeline.hpp, cost/calibrate.hpp, cost/by_cost.hpp and the
/// other models of clusters, init/pretrained_environment.hpp.

#include <fsdpinit/communicators/collectives.hpp>
#include <fsdpinit/communicators/self.hpp>
#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/concepts/local_shard.hpp>
#include <fsdpinit/core.hpp>
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/init/positional.hpp>
#include <fsdpinit/init/pretrained.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>
#include <fsdpinit/modules/missing_tensor.hpp>
#include <fsdpinit/modules/parameter.hpp>
#include <fsdpinit/modules/struct_module.hpp>
#include <fsdpinit/observe/observer.hpp>
#include <fsdpinit/observe/report.hpp>
#include <fsdpinit/sources/in_memory.hpp>
#include <fsdpinit/sources/remote.hpp>
