#!/usr/bin/env bash
# usage: tests/readme/output.sh ROOT BUILD MARKDOWN...
# What README and the guide say that a program prints, it prints: each fenced block after a line that ends in "`PROGRAM ARGUMENTS`
# prints" is compared with what PROGRAM prints, run with these arguments in the folder ROOT. Programs are those of the build folder
# BUILD: the tool, `fsdpinit`, and the examples, which are called `fsdpinit_...`.
set -euo pipefail

root=$1
build=$(realpath -- "$2")
shift 2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# One file for each block: where it is, then the command, then the text.
awk -v folder="$scratch" '
  function report(what) { printf "%s:%d: %s\n", FILENAME, FNR, what; failed = 1 }
  /`fsdpinit[a-z_]*( [^`]+)?` prints$/ {
    command = $0
    sub(/` prints$/, "", command)
    sub(/^.*`/, "", command)
    next
  }
  command != "" && /^```/ && !reading {
    reading = 1
    file = folder "/" ++blocks ".block"
    printf "%s:%d\n%s\n", FILENAME, FNR, command > file
    next
  }
  command != "" && !reading && /[^ ]/ { report("no block follows of what " command " prints"); command = "" }
  reading && /^```/ { reading = 0; command = ""; close(file); next }
  reading { print > file }
  END {
    if (!blocks) { print "no block of what a program prints was found"; failed = 1 }
    exit failed
  }' "$@"

status=0
for block in "$scratch"/*.block; do
  { read -r place && read -ra command; } <"$block"
  program=$build/${command[0]}
  if [[ ! -x $program ]]; then program=$build/examples/${command[0]}; fi
  if ! (cd "$root" && "$program" "${command[@]:1}") >"$scratch/found" 2>&1 || ! tail -n +3 "$block" | diff - "$scratch/found"; then
    echo "$place: this is not what ${command[*]} prints"
    status=1
  fi
done
exit "$status"
