// expect: fsdpinit: what stands before `|` must model StateDictSource: tensors() const, void read(tensor, offset,
// destination); or SourceOpener: a call that returns one; or be another adaptor
#include <fsdpinit/sources/in_memory.hpp>
#include <fsdpinit/sources/renamed.hpp>

#ifdef FSDPINIT_CONTROL
using given = fsdpinit::in_memory_source;
#else
using given = int;
#endif

void call() { static_cast<void>(given() | fsdpinit::renamed("model.", "")); }
