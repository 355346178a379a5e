#!/usr/bin/env bash
# usage: self_test.sh PYTHON
# Shows that chains.py puts a header behind those alone that it includes, and that --check sees when that is no longer so.
set -euo pipefail

python=$1
chains=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/chains.py
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
headers=(base.hpp above.hpp beside.hpp sometimes.hpp)
failures=0

header() { printf '%s\n' "${@:2}" >"$scratch/$1.hpp"; }
run() { "$python" "$chains" "$@" "$scratch" "$scratch/units" "${headers[@]}"; }
# expect UNIT HEADER...: the unit includes just these, in this order.
expect() {
  local found
  found=$(sed -n 's/^#include <\(.*\)\.hpp>$/\1/p' "$scratch/units/$1.cpp" | paste -sd ' ')
  if [[ $found != "${*:2}" ]]; then
    echo "self test: the unit $1 includes '$found', not '${*:2}'"
    failures=$((failures + 1))
  fi
}

header base '#pragma once' 'struct base {};'
header above '#include <base.hpp>' '#include <vector>'
header beside 'base forgotten();'
header sometimes '#ifdef SOMETHING' '#include <above.hpp>' '#endif'
run
expect above base above
expect beside beside
expect sometimes sometimes

run --check
header above '#include <vector>'
if run --check 2>"$scratch/said" || ! grep -q "configure it again" "$scratch/said"; then
  echo "self test: --check does not see that a header no longer includes another"
  failures=$((failures + 1))
fi
run
expect above above
expect base base
exit $((failures > 0))
