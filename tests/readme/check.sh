#!/usr/bin/env bash
# usage: tests/readme/check.sh ROOT MARKDOWN...
# Code in README and in the guide is quoted from examples and tests that are built and run: each fenced block that follows a line
#   <!-- examples/file.cpp [tag] header.hpp... -->
# must equal the lines between the two `// [tag]` or `# [tag]` comments of that file, indentation of the region aside, or, for the tag
# `*`, the whole file. Where headers are named the block begins with the file's #include lines of them and an empty line. The first
# block of C++ that a page quotes from a file must include something. A block of C++, CUDA or CMake that follows no such line is an
# error.
set -euo pipefail

root=$1
shift
awk -v root="$root" '
  function region(file, tag,    line, inside, out, indent, path) {
    path = root "/" file
    indent = -1
    inside = tag == "*"
    while ((getline line < path) > 0) {
      if (tag != "*" && line ~ "^ *(//|#) \\[" tag "\\]$") { if (inside) { inside = 0; break } inside = 1; continue }
      if (!inside) continue
      if (indent < 0 && line ~ /[^ ]/) { match(line, /^ */); indent = RLENGTH }
      out = out (line ~ /[^ ]/ ? substr(line, indent + 1) : "") "\n"
    }
    close(path)
    return out
  }
  # The #include line that `file` has for a header.
  function include_of(file, header,    line, path, found) {
    path = root "/" file
    while ((getline line < path) > 0) {
      if (line == "#include <" header ">" || line == "#include \"" header "\"") { found = line "\n"; break }
    }
    close(path)
    if (found == "") report(file " does not include " header)
    return found
  }
  function report(what) { printf "%s:%d: %s\n", FILENAME, FNR, what; failed = 1 }
  FNR == 1 {
    if (reading || passing) { print previous ": a block is not closed"; failed = 1 }
    file = ""; reading = 0; passing = 0; previous = FILENAME
  }
  passing { passing = $0 !~ /^ *```/; next }
  !reading && /^<!-- (examples|tests)\/[^ ]+ \[[^]]+\]( [^ ]+)* -->$/ {
    file = $2
    tag = substr($3, 2, length($3) - 2)
    includes = ""
    for (i = 4; i < NF; ++i) includes = includes include_of(file, $i)
    next
  }
  !reading && /^ *```/ {
    if (file != "") { reading = 1; block = ""; next }
    passing = 1
    if ($0 ~ /^ *``` *(cpp|c\+\+|cxx|cc|hpp|c|cuda|cmake)/) report("code that is quoted from nowhere: say where, as in <!-- examples/file.cpp [tag] -->")
    next
  }
  !reading && file != "" { report("the block of " file " [" tag "] does not follow"); file = "" }
  reading && /^```/ {
    expected = region(file, tag)
    if (expected == "") report(file " has no region [" tag "]")
    if (includes != "") expected = includes "\n" expected
    if (expected != "" && expected != block) {
      report("the block differs from " file " [" tag "], which reads:")
      printf "%s", expected
    }
    if (file ~ /\.(cpp|hpp|cu|cuh)$/ && !quoted[FILENAME " " file]++ && block !~ /#include/) {
      report("the first block from " file " includes nothing: name its headers, as in <!-- " file " [" tag "] header.hpp -->")
    }
    ++checked; reading = 0; file = ""; next
  }
  reading { block = block $0 "\n" }
  END {
    if (reading || passing) { print previous ": a block is not closed"; failed = 1 }
    if (checked == 0) { print "no quoted block was found"; failed = 1 }
    exit failed
  }' "$@"
