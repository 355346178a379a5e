#pragma once

#include <fsdpinit/communicators/threads.hpp>
#include <fsdpinit/init/initialization.hpp>
#include <fsdpinit/init/missing_tensor.hpp>
#include <fsdpinit/memory/host_memory.hpp>
#include <fsdpinit/modules/dynamic_module.hpp>
#include <fsdpinit/observe/observer.hpp>
#include <fsdpinit/sources/in_memory.hpp>
#include <support/fake_device_memory.hpp>

/// \file
/// The initialisations that most tests run are compiled once, in instantiations.cpp, instead of in every test.

namespace fsdpinit::detail {

extern template rank_report run_initialization(const policy_facts&, dynamic_module&, in_memory_source&,
                                               channels<threads_communicator, threads_communicator>, const options&,
                                               host_memory*, null_observer&, no_optimizer&, no_initialiser&);
extern template rank_report run_initialization(const policy_facts&, dynamic_module&, in_memory_source&,
                                               channels<threads_communicator, threads_communicator>, const options&,
                                               testing_support::fake_device_memory*, null_observer&, no_optimizer&,
                                               no_initialiser&);

}  // namespace fsdpinit::detail
