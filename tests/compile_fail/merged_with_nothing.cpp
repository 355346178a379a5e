// expect: fsdpinit: what is merged must model StateDictSource: tensors() const, void read(tensor, offset,
// destination); or SourceOpener: a call that returns one
#include <fsdpinit/sources/in_memory.hpp>
#include <fsdpinit/sources/merged.hpp>

#ifdef FSDPINIT_CONTROL
using given = fsdpinit::in_memory_source;
#else
using given = int;
#endif

void call() { static_cast<void>(fsdpinit::merged(fsdpinit::in_memory_source(), given())); }
