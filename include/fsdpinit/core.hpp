#pragma once

/// \file
/// The vocabulary, the planner and the concepts: no I/O, no threads, no `<memory>`. For adapters and tools. The default
/// unit assignment, modules/units.hpp, is apart: it is needed where a module is initialised, and costs a map.

#include <fsdpinit/concepts/communicator.hpp>
#include <fsdpinit/concepts/memory_space.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/concepts/slot.hpp>
#include <fsdpinit/concepts/state_dict_source.hpp>
#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/core/deadline.hpp>
#include <fsdpinit/core/dtype.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/shape.hpp>
#include <fsdpinit/core/tensor_descriptor.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/core/version.hpp>
#include <fsdpinit/index/byte_region.hpp>
#include <fsdpinit/index/mesh.hpp>
#include <fsdpinit/index/partition.hpp>
#include <fsdpinit/plan/bucket_schedule.hpp>
#include <fsdpinit/plan/plan.hpp>
#include <fsdpinit/plan/prediction.hpp>
#include <fsdpinit/plan/slab_layout.hpp>
