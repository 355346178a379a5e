#!/usr/bin/env bash
# usage: self_test.sh COMPILER
# Shows that check.sh tells a good compile-fail file from the ways one can be wrong.
set -euo pipefail

compiler=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
failures=0

# expect VARIANT NAME passes|TEXT: check.sh passes, or fails and its output contains TEXT.
expect() {
  local output status=0
  output=$(bash "$here/check.sh" "$1" "$here/self_test/$2.cpp" "$compiler" -std=c++20) || status=$?
  if [[ $3 == passes ]]; then
    ((status == 0)) && return
  elif ((status != 0)) && [[ $output == *"$3"* ]]; then
    return
  fi
  echo "self test: $1 of $2.cpp: expected '$3', got status $status and: $output"
  failures=$((failures + 1))
}

expect rejects good passes
expect control good passes
expect rejects compiles "compiles, but should be rejected with"
expect rejects other_error "is rejected without the text"
expect rejects other_text "is rejected without the text: another text"
expect rejects other_first "another error is told before: the text"
expect rejects too_long "lines, more than 25"
expect control other_error "the control variant does not compile"
expect rejects no_expectation "the first line must be"
exit $((failures > 0))
