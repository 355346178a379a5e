#!/usr/bin/env bash
# usage: check.sh NM OBJECT...
# Fails if an object has a definition that is not weak, and names it: a function or a variable that a header defines without `inline`.
# Two translation units with that header would not link.
set -euo pipefail

defined=$("$1" --extern-only --defined-only --demangle "${@:2}")
if grep -E '^[0-9a-f]+ [A-TX-Z] ' <<<"$defined"; then
  echo "odr: make these inline"
  exit 1
fi
