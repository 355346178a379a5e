#!/usr/bin/env bash
# The check must be able to fail: on a test that is not there, on a rule without one, and on nothing to check.
set -euo pipefail

check=$(dirname "${BASH_SOURCE[0]}")/check.sh
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

expect() {  # 0 or 1, and a line of rules
  local status=0
  printf '%b' "$2" >"$scratch/rules"
  printf 'Test project x\n  Test  #1: a.b\n  Test #12: c/d.e/f  # GetParam() = f\n\nTotal Tests: 2\n' |
    bash "$check" "$scratch/rules" >"$scratch/out" || status=$?
  if [[ $status != "$1" ]]; then
    echo "expected exit code $1, got $status for '$2':"
    cat "$scratch/out"
    exit 1
  fi
}
expect 0 '# rules\n\nr | a.b | c/d.e/f\n'
expect 0 'r | a.b c/d.e/f | -\n'
expect 1 'r | a.b | a.c\n'
expect 1 'r | x | -\n'
expect 1 'r | - | a.b\n'
expect 1 'r | a.b |\n'
expect 1 'r | a.b\n'
expect 1 '# none\n'
