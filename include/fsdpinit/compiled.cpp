// The engine, compiled once: what fsdpinit::compiled consists of. The same code as without it.

#include <fsdpinit/init/calibrator.hpp>
#include <fsdpinit/init/initialization.hpp>
#include <fsdpinit/init/pretrained_load.hpp>
