// One of two translation units of a program, neither of which initialises a module.
#include <fsdpinit/core/xxh3.hpp>
