#!/usr/bin/env bash
# usage: run.sh PROGRAM VALGRIND LIMITS
# Counts the instructions of planning and of parsing headers, which are the same whatever else the machine does, and compares them with
# LIMITS. Fails where one is above, and says so where one is so far below that the limit guards nothing.
set -euo pipefail

program=$1 valgrind=$2 limits=$3
status=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

printf '%-26s %12s %10s\n' "instructions per tensor" counted limit
while read -r what tensors limit; do
  "$valgrind" --tool=callgrind --toggle-collect=measured --callgrind-out-file="$scratch/out" "$program" "$what" "$tensors" \
    >"$scratch/printed" 2>"$scratch/log" || { cat "$scratch/log"; exit 1; }
  counted=$(awk '/Collected *:/ { print $NF }' "$scratch/log")
  if [[ -z $counted || $counted == 0 ]]; then
    cat "$scratch/log"
    echo "nothing was counted"
    exit 1
  fi
  each=$((counted / tensors))
  verdict=
  if ((each > limit)); then
    verdict="  OVER"
    status=1
  elif ((each * 2 < limit)); then
    verdict="  half of its limit: set that anew"
  fi
  printf '%-26s %12d %10d%s\n' "$what" "$each" "$limit" "$verdict"
done < <(grep -v '^#' "$limits")
exit $status
