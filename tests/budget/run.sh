#!/usr/bin/env bash
# usage: tests/budget/run.sh [INCLUDE_DIR]
# What including the library costs: instructions of the compiler for the umbrellas, over an empty file, and what they must not pull in.
#
# Instructions of `-fsyntax-only`, counted by valgrind, which are the same whatever the machine is and does. Seconds were tried: in units
# of the time that <string>, <vector> and <span> take beside it, fsdpinit.hpp was 1.38 on one processor and 1.60 on another.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
include=${1:-include}
compiler=${CXX:-g++}

# In millions, for g++ 12; about 4,100 are a second on the machine that the aims are from: 0.5 s and 1.0 s. <memory>, <string>, <vector>,
# <span> and <map> are half of fsdpinit.hpp. The limits keep both from growing. The engine, and predict over programs, are ordinary code, and
# so are paid for where they are included, not where they are called; a program over fsdpinit::compiled does not include them.
declare -A limit=([core.hpp]=2850 [fsdpinit.hpp]=10200 [fsdpinit.hpp compiled]=6400)
headers=(core.hpp fsdpinit.hpp)
forbidden='/(nlohmann|fmt)/|/(ranges|iostream|regex|mpi\.h)$|/boost/hana\.hpp$|/gsl/gsl$'

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
: >"$scratch/empty.cpp"
for header in "${headers[@]}"; do
  echo "#include <fsdpinit/$header>" >"$scratch/$header.cpp"
done
compile=("$compiler" -std=c++20 -I "$include")

failed=0

# -- what is pulled in ---------------------------------------------------------------------------------------------------

for header in "${headers[@]}"; do
  # -H prints each header with as many dots as its depth: the stack of open headers is the way to a forbidden one.
  "${compile[@]}" -fsyntax-only -H "$scratch/$header.cpp" 2>"$scratch/tree" || { cat "$scratch/tree"; exit 1; }
  ways=$(awk -v forbidden="$forbidden" '
    /^\.+ / {
      depth = length($1); path = $2; stack[depth] = path
      if (path ~ forbidden) {
        way = stack[1]
        for (i = 2; i <= depth; ++i) way = way " > " stack[i]
        print "  " way
      }
    }' "$scratch/tree")
  if [[ -n $ways ]]; then
    echo "$header pulls in what it must not:"
    echo "$ways"
    failed=1
  fi
done

# -- what it costs -------------------------------------------------------------------------------------------------------

command -v valgrind >/dev/null || { echo "budget: needs valgrind; install it (bash cmake/packages.sh test)"; exit 1; }

# Without following jumps while it translates, valgrind takes a tenth less: few of the compiler's blocks run often.
millions() {  # name, flags: sets counted
  "${compile[@]}" "${@:2}" -fsyntax-only "$scratch/$1.cpp" \
    -wrapper valgrind,--tool=cachegrind,--cache-sim=no,--cachegrind-out-file=/dev/null,--vex-guest-chase=no 2>"$scratch/log" || { cat "$scratch/log"; exit 1; }
  counted=$(awk '/I *refs:/ { gsub(",", "", $NF); print int($NF / 1e6 + 0.5) }' "$scratch/log")
  if [[ -z $counted || $counted == 0 ]]; then cat "$scratch/log"; echo "nothing was counted"; exit 1; fi
}

millions empty
nothing=$counted
printf '%-24s %10s %10s\n' "millions of instructions" counted limit
for header in "${headers[@]}" "fsdpinit.hpp compiled"; do
  flags=()
  if [[ $header == *" compiled" ]]; then flags=(-DFSDPINIT_COMPILED); fi
  millions "${header% compiled}" "${flags[@]}"
  cost=$((counted - nothing))
  verdict=
  if ((cost > limit[$header])); then
    verdict="  OVER"
    failed=1
  elif ((cost * 10 < limit[$header] * 8)); then
    verdict="  far below its limit: set that anew"
  fi
  printf '%-24s %10d %10d%s\n' "$header" "$cost" "${limit[$header]}" "$verdict"
done
exit $failed
