# Which header belongs to which component. Everything under include/ is found by glob, so that no header can be left out of the
# self-containment check; only headers of the optional parts are named, by patterns relative to include/fsdpinit/. All others
# are the component `core`. A pattern matches the whole relative path, and `*` also matches `/`.

set(FSDPINIT_PARTS safetensors text xxh3 mpi cuda nccl torch)
set(FSDPINIT_SAFETENSORS_PATTERNS
    "safetensors.hpp"
    "sources/safetensors*.hpp"
    "sources/hf_*.hpp"
    "sources/json*.hpp"
    "observe/*json*.hpp")
set(FSDPINIT_TEXT_PATTERNS "text.hpp" "observe/*text*.hpp")
set(FSDPINIT_XXH3_PATTERNS "core/xxh3.hpp")
set(FSDPINIT_MPI_PATTERNS "mpi.hpp" "communicators/mpi*.hpp")
set(FSDPINIT_CUDA_PATTERNS "cuda.hpp" "memory/cuda_runtime.hpp")
set(FSDPINIT_NCCL_PATTERNS "nccl.hpp" "communicators/nccl_runtime.hpp")
set(FSDPINIT_TORCH_PATTERNS "torch.hpp" "adapters/torch*.hpp" "adapters/c10d*.hpp")

# Moves the members of <list> that match one of the patterns to <out>.
function(fsdpinit_take_headers list out)
  set(taken)
  set(left)
  foreach(header IN LISTS ${list})
    set(belongs FALSE)
    foreach(pattern IN LISTS ARGN)
      string(REPLACE "." "\\." regex "${pattern}")
      string(REPLACE "*" ".*" regex "${regex}")
      if(header MATCHES "^${regex}$")
        set(belongs TRUE)
      endif()
    endforeach()
    if(belongs)
      list(APPEND taken "${header}")
    else()
      list(APPEND left "${header}")
    endif()
  endforeach()
  set(${list} "${left}" PARENT_SCOPE)
  set(${out} "${taken}" PARENT_SCOPE)
endfunction()

file(GLOB_RECURSE FSDPINIT_CORE_HEADERS
     RELATIVE "${PROJECT_SOURCE_DIR}/include/fsdpinit"
     CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/fsdpinit/*.hpp")
foreach(part IN LISTS FSDPINIT_PARTS)
  string(TOUPPER "${part}" PART)
  fsdpinit_take_headers(FSDPINIT_CORE_HEADERS FSDPINIT_${PART}_HEADERS ${FSDPINIT_${PART}_PATTERNS})
endforeach()

# Headers for CUDA compilers alone, of the component `cuda`.
file(GLOB_RECURSE FSDPINIT_CUDA_KERNEL_HEADERS CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/fsdpinit/*.cuh")
