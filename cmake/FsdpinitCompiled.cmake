# fsdpinit::compiled: the library with its engine compiled once, for programs that initialise in many places. A project that uses the library
# compiles it, with flags of its own, if it links the target.

function(fsdpinit_add_compiled source)
  add_library(fsdpinit_compiled STATIC EXCLUDE_FROM_ALL "${source}")
  add_library(fsdpinit::compiled ALIAS fsdpinit_compiled)
  target_link_libraries(fsdpinit_compiled PUBLIC fsdpinit::fsdpinit)
  target_compile_definitions(fsdpinit_compiled PUBLIC FSDPINIT_COMPILED)
  set_target_properties(fsdpinit_compiled PROPERTIES POSITION_INDEPENDENT_CODE ON)
endfunction()
