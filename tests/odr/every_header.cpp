// A translation unit of every header, which defines nothing that another such unit must not define too.
#include "every_header.hpp"
