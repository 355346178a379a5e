#!/usr/bin/env bash
# usage: tests/readme/check.sh MARKDOWN ROOT
# Code in README is quoted from examples and tests that are built and run: each fenced block that follows a line
#   <!-- examples/file.cpp [tag] -->
# must equal the lines between the two `// [tag]` or `# [tag]` comments of that file, indentation of the region aside.
set -euo pipefail

markdown=$1
root=$2
awk -v root="$root" '
  function region(file, tag,    line, inside, out, indent, path) {
    path = root "/" file
    indent = -1
    while ((getline line < path) > 0) {
      if (line ~ "^ *(//|#) \\[" tag "\\]$") { if (inside) { inside = 0; break } inside = 1; continue }
      if (!inside) continue
      if (indent < 0 && line ~ /[^ ]/) { match(line, /^ */); indent = RLENGTH }
      out = out (line ~ /[^ ]/ ? substr(line, indent + 1) : "") "\n"
    }
    close(path)
    return out
  }
  function report(what) { printf "%s:%d: %s\n", FILENAME, FNR, what; failed = 1 }
  /^<!-- (examples|tests)\/[^ ]+ \[[^]]+\] -->$/ { file = $2; tag = substr($3, 2, length($3) - 2); next }
  file != "" && /^```/ && !reading { reading = 1; block = ""; next }
  reading && /^```/ {
    expected = region(file, tag)
    if (expected == "") report(file " has no region [" tag "]")
    else if (expected != block) {
      report("the block differs from " file " [" tag "], which reads:")
      printf "%s", expected
    }
    ++checked; reading = 0; file = ""; next
  }
  reading { block = block $0 "\n" }
  END {
    if (checked == 0) { print FILENAME ": no quoted block was found"; failed = 1 }
    exit failed
  }' "$markdown"
