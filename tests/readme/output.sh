#!/usr/bin/env bash
# usage: tests/readme/output.sh MARKDOWN ROOT TOOL
# What README says that the tool prints, it prints: each fenced block after a line that ends in "`fsdpinit ARGUMENTS` prints" is
# compared with what TOOL prints, run with these arguments in the folder ROOT.
set -euo pipefail

markdown=$(realpath -- "$1")
root=$2
tool=$(realpath -- "$3")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# One file for each block: the arguments first.
awk -v folder="$scratch" '
  /`fsdpinit [^`]+` prints$/ {
    arguments = $0
    sub(/^.*`fsdpinit /, "", arguments)
    sub(/` prints$/, "", arguments)
    next
  }
  arguments != "" && /^```/ && !reading { reading = 1; file = folder "/" ++blocks ".block"; print arguments > file; next }
  reading && /^```/ { reading = 0; arguments = ""; close(file); next }
  reading { print > file }' "$markdown"

status=1  # nothing to compare is a failure
for block in "$scratch"/*.block; do
  if [[ ! -e $block ]]; then echo "$markdown: no block of what the tool prints was found"; break; fi
  if [[ $block == "$scratch/1.block" ]]; then status=0; fi
  read -ra arguments <"$block"
  if ! (cd "$root" && "$tool" "${arguments[@]}") >"$scratch/found" 2>&1 || ! tail -n +2 "$block" | diff - "$scratch/found"; then
    echo "$markdown: this is not what fsdpinit ${arguments[*]} prints"
    status=1
  fi
done
exit "$status"
