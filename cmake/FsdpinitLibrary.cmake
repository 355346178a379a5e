# The library's INTERFACE targets: fsdpinit::fsdpinit, fsdpinit::safetensors, fsdpinit::text.

include(GNUInstallDirs)

set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
find_package(Boost 1.74 REQUIRED)
find_package(Microsoft.GSL 4.0 CONFIG REQUIRED)

# fsdpinit_library(<name> HEADERS <header relative to include/fsdpinit>... DEPENDS <target>...)
function(fsdpinit_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "HEADERS;DEPENDS")
  set(target fsdpinit)
  if(NOT name STREQUAL "fsdpinit")
    set(target fsdpinit_${name})
  endif()
  list(TRANSFORM arg_HEADERS PREPEND "${PROJECT_SOURCE_DIR}/include/fsdpinit/")

  add_library(${target} INTERFACE)
  add_library(fsdpinit::${name} ALIAS ${target})
  target_compile_features(${target} INTERFACE cxx_std_20)
  target_sources(${target} INTERFACE FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${arg_HEADERS})
  target_link_libraries(${target} INTERFACE ${arg_DEPENDS})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name} VERIFY_INTERFACE_HEADER_SETS ${PROJECT_IS_TOP_LEVEL})
  if(PROJECT_IS_TOP_LEVEL)
    install(TARGETS ${target} FILE_SET HEADERS)
  endif()
endfunction()

fsdpinit_library(
  fsdpinit
  HEADERS ${FSDPINIT_HEADERS}
  DEPENDS Boost::headers Microsoft.GSL::GSL Threads::Threads)

if(FSDPINIT_WITH_SAFETENSORS)
  find_package(nlohmann_json 3.11 CONFIG REQUIRED)
  fsdpinit_library(
    safetensors
    HEADERS ${FSDPINIT_SAFETENSORS_HEADERS}
    DEPENDS fsdpinit::fsdpinit nlohmann_json::nlohmann_json)
endif()

if(FSDPINIT_WITH_TEXT)
  find_package(fmt 9 CONFIG REQUIRED)
  fsdpinit_library(
    text
    HEADERS ${FSDPINIT_TEXT_HEADERS}
    DEPENDS fsdpinit::fsdpinit fmt::fmt)
endif()
