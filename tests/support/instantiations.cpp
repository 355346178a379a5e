#include <support/instantiations.hpp>

namespace fsdpinit::detail {

template rank_report run_initialization(const policy_facts&, dynamic_module&, in_memory_source&,
                                        channels<threads_communicator, threads_communicator>, const options&,
                                        host_memory*, null_observer&, no_optimizer&, no_initialiser&);
template rank_report run_initialization(const policy_facts&, dynamic_module&, in_memory_source&,
                                        channels<threads_communicator, threads_communicator>, const options&,
                                        testing_support::fake_device_memory*, null_observer&, no_optimizer&,
                                        no_initialiser&);

}  // namespace fsdpinit::detail
