// expect: fsdpinit: `source` must be a StateDictSource (T must have tensors() const, void read(
#include <fsdpinit/cost/calibrate.hpp>
#include <fsdpinit/fsdpinit.hpp>

#ifdef FSDPINIT_CONTROL
using given = fsdpinit::in_memory_source;
#else
using given = const char*;
#endif

void call(given source, fsdpinit::self_communicator& links) { static_cast<void>(fsdpinit::calibrate(source, links)); }
