#!/usr/bin/env bash
# usage: run.sh PROGRAM VALGRIND LIMITS
# Counts the instructions of planning, of parsing headers and of loads, which are the same whatever else the machine does, and compares
# them with LIMITS. Fails where one is above, and says so where one is so far below that the limit guards nothing.
set -euo pipefail

program=$1 valgrind=$2 limits=$3
status=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Sets `counted` to the instructions of each call.
count() {  # WHAT COUNT...
  rm -f "$scratch"/out*
  "$valgrind" --tool=callgrind --toggle-collect=measured --dump-after=measured --callgrind-out-file="$scratch/out" "$program" "$@" \
    >"$scratch/printed" 2>"$scratch/log" || { cat "$scratch/log"; exit 1; }
  counted=()
  local call number
  for ((call = 1; call < $#; ++call)); do
    number=$(awk '/^totals:/ { print $2 }' "$scratch/out.$call")
    if [[ ! $number =~ ^[1-9][0-9]*$ ]]; then
      cat "$scratch/log"
      echo "nothing was counted"
      exit 1
    fi
    counted+=("$number")
  done
}

printf '%-27s %12s %10s\n' "instructions of one" counted limit
while read -r what number limit; do
  if [[ $number == *+* ]]; then  # FIRST+MORE: what MORE take beyond FIRST, so that what comes once does not count
    more=${number#*+}
    count "$what" "${number%+*}" $((number))
    each=$(((counted[1] - counted[0]) / more))
  else
    count "$what" "$number"
    each=$((counted[0] / number))
  fi
  verdict=
  if ((each > limit)); then
    verdict="  OVER"
    status=1
  elif ((each * 2 < limit)); then
    verdict="  half of its limit: set that anew"
  fi
  printf '%-27s %12d %10d%s\n' "$what" "$each" "$limit" "$verdict"
done < <(grep -v '^#' "$limits")
exit $status
