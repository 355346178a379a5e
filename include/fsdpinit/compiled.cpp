// The engine, compiled once: what fsdpinit::compiled consists of. The same code as without it.

#define FSDPINIT_COMPILES

#include <fsdpinit/cost/calibrate.hpp>
#include <fsdpinit/init/initialize.hpp>
#include <fsdpinit/init/pretrained.hpp>
#include <fsdpinit/sources/in_memory.hpp>
