# Which header belongs to which target. Everything under include/ is found by glob, so that no header can be left out of the
# self-containment check; only headers that need an extra dependency are named, by patterns relative to include/fsdpinit/.
# A pattern matches the whole relative path, and `*` also matches `/`.

set(FSDPINIT_SAFETENSORS_PATTERNS
    "safetensors.hpp"
    "sources/safetensors*.hpp"
    "sources/hf_*.hpp"
    "sources/json*.hpp"
    "observe/*json*.hpp")
set(FSDPINIT_TEXT_PATTERNS "text.hpp" "observe/*text*.hpp")

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

file(GLOB_RECURSE FSDPINIT_HEADERS
     RELATIVE "${PROJECT_SOURCE_DIR}/include/fsdpinit"
     CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/fsdpinit/*.hpp")
fsdpinit_take_headers(FSDPINIT_HEADERS FSDPINIT_SAFETENSORS_HEADERS ${FSDPINIT_SAFETENSORS_PATTERNS})
fsdpinit_take_headers(FSDPINIT_HEADERS FSDPINIT_TEXT_HEADERS ${FSDPINIT_TEXT_PATTERNS})
