# xxHash as the target xxHash::xxhash, with XXH3 (0.8). From its own CMake package where that is installed (vcpkg, Conan); most
# distributions install header and library alone.

find_package(xxHash CONFIG QUIET)
if(TARGET xxHash::xxhash)
  return()
endif()

find_path(xxHash_INCLUDE_DIR xxhash.h)
find_library(xxHash_LIBRARY xxhash)
mark_as_advanced(xxHash_INCLUDE_DIR xxHash_LIBRARY)
if(xxHash_INCLUDE_DIR)
  file(STRINGS "${xxHash_INCLUDE_DIR}/xxhash.h" xxHash_VERSION REGEX "^#define XXH_VERSION_(MAJOR|MINOR|RELEASE) +[0-9]+")
  list(TRANSFORM xxHash_VERSION REPLACE "^.* ([0-9]+)$" "\\1")
  list(JOIN xxHash_VERSION "." xxHash_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(xxHash REQUIRED_VARS xxHash_LIBRARY xxHash_INCLUDE_DIR VERSION_VAR xxHash_VERSION)
if(xxHash_FOUND)
  add_library(xxHash::xxhash UNKNOWN IMPORTED)
  set_target_properties(xxHash::xxhash PROPERTIES IMPORTED_LOCATION "${xxHash_LIBRARY}"
                                                  INTERFACE_INCLUDE_DIRECTORIES "${xxHash_INCLUDE_DIR}")
endif()

# Most builds of the library for x86 can choose among vector widths when the program runs; a header of its own declares it.
if(xxHash_FOUND AND NOT DEFINED xxHash_DISPATCHES)
  file(STRINGS "${xxHash_LIBRARY}" xxHash_symbols REGEX "XXH3_64bits_update_dispatch" LIMIT_COUNT 1)
  if(xxHash_symbols)
    set(xxHash_DISPATCHES TRUE CACHE INTERNAL "")
  else()
    set(xxHash_DISPATCHES FALSE CACHE INTERNAL "")
  endif()
endif()
if(xxHash_FOUND AND xxHash_DISPATCHES)
  set_target_properties(xxHash::xxhash PROPERTIES INTERFACE_COMPILE_DEFINITIONS FSDPINIT_XXH3_DISPATCHES)
endif()
