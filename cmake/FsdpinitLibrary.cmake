# The library's INTERFACE targets: fsdpinit::fsdpinit, which is the component `core`, and fsdpinit::<part> for each of
# FSDPINIT_PARTS whose packages are found. Another part is a line here and one in FsdpinitHeaders.cmake.

set(THREADS_PREFER_PTHREAD_FLAG ON)

# What a component needs: targets, each followed by the arguments of find_package that provide it. The installed package asks
# for the same. MPI's C interface is used, but through its C++ target: that of C would ask every user's project for language C.
set(FSDPINIT_CORE_NEEDS Boost::headers "Boost 1.74" Microsoft.GSL::GSL "Microsoft.GSL 4.0 CONFIG" Threads::Threads "Threads")
set(FSDPINIT_SAFETENSORS_NEEDS nlohmann_json::nlohmann_json "nlohmann_json 3.11 CONFIG")
set(FSDPINIT_TEXT_NEEDS fmt::fmt "fmt 9 CONFIG")
set(FSDPINIT_XXH3_NEEDS xxHash::xxhash "xxHash 0.8")
set(FSDPINIT_MPI_NEEDS MPI::MPI_CXX "MPI COMPONENTS CXX")
set(FSDPINIT_CUDA_NEEDS CUDA::cudart "CUDAToolkit 12")
set(FSDPINIT_NCCL_NEEDS NCCL::nccl "NCCL 2.18")
set(FSDPINIT_TORCH_NEEDS torch "Torch CONFIG")
set(FSDPINIT_NCCL_BUILDS_ON cuda)  # another part, listed before it
# The same for pkg-config. Boost and the GSL have no files for it; those of MPI, CUDA and libtorch have another name everywhere.
set(FSDPINIT_SAFETENSORS_PKG_CONFIG "nlohmann_json >= 3.11")
set(FSDPINIT_TEXT_PKG_CONFIG "fmt >= 9")
set(FSDPINIT_XXH3_PKG_CONFIG "libxxhash >= 0.8")

# Goes on without <part>, which <why> prevents, and says so; fails if FSDPINIT_REQUIRE_<PART> is set, here or in the environment.
function(fsdpinit_leave_out part why)
  string(TOUPPER "${part}" PART)
  set(required "$ENV{FSDPINIT_REQUIRE_${PART}}")
  if(DEFINED FSDPINIT_REQUIRE_${PART})
    set(required "${FSDPINIT_REQUIRE_${PART}}")
  endif()
  if(required)
    message(FATAL_ERROR "fsdpinit: ${part} is required (FSDPINIT_REQUIRE_${PART}), but ${why}; install what is missing (on "
                        "Debian and Ubuntu: bash cmake/packages.sh build mpi torch test docs) or name its prefix in CMAKE_PREFIX_PATH")
  endif()
  message(STATUS "fsdpinit: ${part} left out: ${why}")
endfunction()

# Finds what the component needs; sets <missing> to the names of the packages that were not found, and <targets>.
function(fsdpinit_find_needs needs targets missing)
  set(found)
  set(not_found)
  while(needs)
    list(POP_FRONT needs target arguments)
    list(APPEND found "${target}")
    separate_arguments(words UNIX_COMMAND "${arguments}")
    find_package(${words} QUIET)
    if(NOT TARGET "${target}")  # not <package>_FOUND: a project that uses this one may have made the target itself
      string(REGEX REPLACE " (CONFIG|COMPONENTS).*" "" package "${arguments}")
      list(APPEND not_found "${package}")
    endif()
  endwhile()
  list(JOIN not_found " and " not_found)
  set(${targets} "${found}" PARENT_SCOPE)
  set(${missing} "${not_found}" PARENT_SCOPE)
endfunction()

# fsdpinit_add_library(<target> <name> <COMPONENT> <target to link>...)
function(fsdpinit_add_library target name COMPONENT)
  list(TRANSFORM FSDPINIT_${COMPONENT}_HEADERS PREPEND "${PROJECT_SOURCE_DIR}/include/fsdpinit/" OUTPUT_VARIABLE headers)
  add_library(${target} INTERFACE)
  add_library(fsdpinit::${name} ALIAS ${target})
  target_compile_features(${target} INTERFACE cxx_std_20)
  target_sources(${target} INTERFACE FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${headers})
  target_link_libraries(${target} INTERFACE ${ARGN})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
endfunction()

fsdpinit_find_needs("${FSDPINIT_CORE_NEEDS}" targets missing)
if(missing)
  message(FATAL_ERROR "fsdpinit: not found: ${missing}; install what is missing (on Debian and Ubuntu: bash cmake/packages.sh "
                      "build) or name its prefix in CMAKE_PREFIX_PATH")
endif()
fsdpinit_add_library(fsdpinit fsdpinit CORE ${targets})
fsdpinit_add_compiled("${PROJECT_SOURCE_DIR}/include/fsdpinit/compiled.cpp")

foreach(part IN LISTS FSDPINIT_PARTS)
  string(TOUPPER "${part}" PART)
  option(FSDPINIT_WITH_${PART} "Provide fsdpinit::${part} if what it needs is found" ON)
  if(NOT FSDPINIT_WITH_${PART})
    message(STATUS "fsdpinit: ${part} left out: FSDPINIT_WITH_${PART} is off")
    continue()
  endif()
  fsdpinit_find_needs("${FSDPINIT_${PART}_NEEDS}" targets missing)
  set(below "${FSDPINIT_${PART}_BUILDS_ON}")
  if(missing)
    fsdpinit_leave_out(${part} "${missing} was not found")
  elseif(below AND NOT TARGET fsdpinit::${below})
    fsdpinit_leave_out(${part} "it builds on ${below}")
  else()
    list(TRANSFORM below PREPEND fsdpinit::)
    fsdpinit_add_library(fsdpinit_${part} ${part} ${PART} fsdpinit::fsdpinit ${below} ${targets})
  endif()
endforeach()

if(TARGET fsdpinit_mpi)
  # Without MPI's C++ bindings, which MPI has withdrawn and whose headers are large.
  target_compile_definitions(fsdpinit_mpi INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
endif()

if(TARGET fsdpinit_cuda)
  target_sources(fsdpinit_cuda INTERFACE FILE_SET kernels TYPE HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include"
                                         FILES ${FSDPINIT_CUDA_KERNEL_HEADERS})
  target_compile_options(fsdpinit_cuda INTERFACE "$<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:--expt-relaxed-constexpr>")
endif()
