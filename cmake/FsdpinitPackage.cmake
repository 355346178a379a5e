# What `cmake --install` installs: the headers of the components that are there, the CMake package `fsdpinit`, in which each
# component is a file of its own, and fsdpinit.pc, with fsdpinit-<component>.pc for those that pkg-config can find the needs of.
# Nothing depends on the machine, so all goes to include/ and share/.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(destination "${CMAKE_INSTALL_DATADIR}/cmake/fsdpinit")
set(generated "${PROJECT_BINARY_DIR}/package")
set(pkg_config "${CMAKE_INSTALL_DATADIR}/pkgconfig")
file(RELATIVE_PATH to_include "/prefix/${pkg_config}" "/prefix/${CMAKE_INSTALL_INCLUDEDIR}")  # from there, also after a move
set(FSDPINIT_COMPONENTS core ${FSDPINIT_PARTS})
set(FSDPINIT_ALL_NEEDS "")  # for the configuration, also of parts that are left out

foreach(component IN LISTS FSDPINIT_COMPONENTS)
  string(TOUPPER "${component}" COMPONENT)
  list(JOIN FSDPINIT_${COMPONENT}_NEEDS "\" \"" needs)
  string(APPEND FSDPINIT_ALL_NEEDS "set(fsdpinit_needs_of_${component} \"${needs}\")\n")
  if(FSDPINIT_${COMPONENT}_BUILDS_ON)
    string(APPEND FSDPINIT_ALL_NEEDS "set(fsdpinit_below_${component} ${FSDPINIT_${COMPONENT}_BUILDS_ON})\n")
  endif()

  set(target fsdpinit_${component})
  if(component STREQUAL "core")
    set(target fsdpinit)
  endif()
  if(TARGET ${target})
    set(kernels)
    if(component STREQUAL "cuda")
      set(kernels FILE_SET kernels)
    endif()
    install(TARGETS ${target} EXPORT fsdpinit-${component} FILE_SET HEADERS ${kernels})
    install(EXPORT fsdpinit-${component} FILE fsdpinit-${component}-targets.cmake NAMESPACE fsdpinit::
            DESTINATION "${destination}")
    set(name "fsdpinit")
    set(what "")
    set(requires "")
    if(FSDPINIT_${COMPONENT}_PKG_CONFIG)
      set(name "fsdpinit-${component}")
      set(what ": ${component}")
      set(requires "fsdpinit = ${PROJECT_VERSION}, ${FSDPINIT_${COMPONENT}_PKG_CONFIG}")
    endif()
    if(requires OR component STREQUAL "core")
      configure_file("${CMAKE_CURRENT_LIST_DIR}/fsdpinit.pc.in" "${generated}/${name}.pc" @ONLY)
      install(FILES "${generated}/${name}.pc" DESTINATION "${pkg_config}")
    endif()
  endif()
endforeach()

list(JOIN FSDPINIT_COMPONENTS " " FSDPINIT_COMPONENTS)
configure_file("${CMAKE_CURRENT_LIST_DIR}/fsdpinit-config.cmake.in" "${generated}/fsdpinit-config.cmake" @ONLY)
# As long as the version is 0.x, each minor version may break what the last one promised.
write_basic_package_version_file("${generated}/fsdpinit-config-version.cmake" COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${generated}/fsdpinit-config.cmake" "${generated}/fsdpinit-config-version.cmake"
              "${PROJECT_SOURCE_DIR}/include/fsdpinit/compiled.cpp" "${CMAKE_CURRENT_LIST_DIR}/FsdpinitCompiled.cmake"
              "${CMAKE_CURRENT_LIST_DIR}/FindNCCL.cmake" "${CMAKE_CURRENT_LIST_DIR}/FindxxHash.cmake" DESTINATION "${destination}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
