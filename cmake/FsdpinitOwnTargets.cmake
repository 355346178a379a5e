# How the project's own tests, benchmarks and examples are compiled. Nothing here reaches a consumer of the library.

set(FSDPINIT_SANITIZE "" CACHE STRING "Sanitizers for the project's own targets: address,undefined or thread")
set_property(CACHE FSDPINIT_SANITIZE PROPERTY STRINGS "" "address,undefined" "thread")
if(NOT FSDPINIT_SANITIZE MATCHES "^(address|undefined|address,undefined|thread)?$")
  message(FATAL_ERROR "FSDPINIT_SANITIZE is '${FSDPINIT_SANITIZE}'; use address,undefined or thread")
endif()

option(FSDPINIT_FUZZ "Build the fuzzers too (clang)" OFF)

set(fsdpinit_warnings -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # g++ 12 warns about its own std::string operator+ (GCC bug 105651), and about std::vector's own storage where it has inlined
  # an allocation away (GCC bug 104475).
  list(APPEND fsdpinit_warnings -Wno-restrict -Wno-free-nonheap-object)
endif()

# nvcc hands C++ to the host's compiler in its own words, about which -Wpedantic and -Wconversion would have something to say.
set(fsdpinit_warnings "$<$<COMPILE_LANGUAGE:CXX>:${fsdpinit_warnings}>"
                      "$<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings;-Xcompiler=-Wall,-Wextra,-Wshadow,-Werror>")

add_library(fsdpinit_own INTERFACE)
# CMake 3.25 does not know that nvcc has C++20.
target_compile_options(fsdpinit_own INTERFACE "${fsdpinit_warnings}" "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>")
add_library(fsdpinit_sanitized INTERFACE)
if(FSDPINIT_SANITIZE)
  target_compile_options(fsdpinit_sanitized INTERFACE -fsanitize=${FSDPINIT_SANITIZE} -fno-sanitize-recover=all
                                                -fno-omit-frame-pointer)
  target_link_options(fsdpinit_sanitized INTERFACE -fsanitize=${FSDPINIT_SANITIZE})
endif()

# fsdpinit_own(<target> [UNSANITIZED]): warnings as errors, sanitizers, C++20 without extensions.
function(fsdpinit_own target)
  target_link_libraries(${target} PRIVATE fsdpinit_own)
  if(NOT "UNSANITIZED" IN_LIST ARGN)
    target_link_libraries(${target} PRIVATE fsdpinit_sanitized)
  endif()
  target_compile_features(${target} PRIVATE cxx_std_20)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
endfunction()

# fsdpinit_fuzzed(<target>): what fuzzers run tells them where it has been. As -fsanitize=fuzzer-no-link, which a precompiled header that
# others use would have to have, too.
function(fsdpinit_fuzzed target)
  if(FSDPINIT_FUZZ)
    target_compile_options(${target} PRIVATE -fsanitize-coverage=inline-8bit-counters,pc-table,indirect-calls,trace-cmp)
  endif()
endfunction()

fsdpinit_own(fsdpinit_compiled)
fsdpinit_fuzzed(fsdpinit_compiled)
if(FSDPINIT_SANITIZE)
  target_compile_options(fsdpinit_compiled PRIVATE -O0)  # instrumented code takes the compiler several times as long when optimised
endif()

# Sets <out> to those of the parts that were left out, as text.
function(fsdpinit_parts_absent out)
  set(absent)
  foreach(part IN LISTS ARGN)
    if(NOT TARGET fsdpinit::${part})
      list(APPEND absent ${part})
    endif()
  endforeach()
  list(JOIN absent " and " absent)
  set(${out} "${absent}" PARENT_SCOPE)
endfunction()

if(PROJECT_IS_TOP_LEVEL)
  find_program(FSDPINIT_CCACHE ccache)
  mark_as_advanced(FSDPINIT_CCACHE)
  if(FSDPINIT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_CXX_COMPILER_LAUNCHER "${FSDPINIT_CCACHE}")
  endif()
endif()

# Kernels are compiled and linked for the GPUs that models are trained on, whether there is one here or not.
if(TARGET fsdpinit_cuda AND NOT FSDPINIT_SANITIZE)
  include(CheckLanguage)
  list(APPEND CMAKE_PROGRAM_PATH "${CUDAToolkit_BIN_DIR}")
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 90)  # tests/cuda/all_architectures.sh compiles for all
    endif()
    enable_language(CUDA)
    # nvcc's -O is for what runs on the host, of which nothing computes here; kernels are optimised all the same.
    string(REPLACE "-O3" "-O0" CMAKE_CUDA_FLAGS_RELEASE "${CMAKE_CUDA_FLAGS_RELEASE}")
  else()
    fsdpinit_leave_out(kernels "no CUDA compiler was found")
  endif()
endif()

# Process groups of Gloo, whose header in libtorch asks for that definition, and for Gloo's own headers.
if(TARGET fsdpinit_torch)
  find_path(FSDPINIT_GLOO_INCLUDE_DIR gloo/context.h)
  mark_as_advanced(FSDPINIT_GLOO_INCLUDE_DIR)
  if(FSDPINIT_GLOO_INCLUDE_DIR)
    add_library(fsdpinit_gloo INTERFACE)
    target_include_directories(fsdpinit_gloo SYSTEM INTERFACE "${FSDPINIT_GLOO_INCLUDE_DIR}")
    target_compile_definitions(fsdpinit_gloo INTERFACE USE_C10D_GLOO)
  else()
    fsdpinit_leave_out(gloo "its headers were not found")
  endif()
endif()
