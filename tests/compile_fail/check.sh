#!/usr/bin/env bash
# usage: check.sh rejects|control FILE COMPILER [FLAG...]
#
# FILE's first line is `// expect: <fixed text>`.
#   rejects  passes when FILE does not compile and the compiler's output contains the text.
#   control  passes when FILE compiles with -DFSDPINIT_CONTROL: the file's mistake, and nothing else, is what is rejected.
set -euo pipefail

variant=$1 file=$2 compiler=$3
shift 3

IFS= read -r first_line <"$file"
if [[ $first_line != "// expect: "?* ]]; then
  echo "$file: the first line must be '// expect: <text of the error>'"
  exit 1
fi
expected=${first_line#"// expect: "}

if [[ $variant == control ]]; then
  set -- "$@" -DFSDPINIT_CONTROL
fi
status=0
# Diagnostics are to be found whatever the locale and however narrow the terminal.
output=$(LC_ALL=C "$compiler" "$@" -fsyntax-only -fdiagnostics-color=never -fmessage-length=0 "$file" 2>&1) || status=$?

case $variant in
  control)
    if ((status != 0)); then
      echo "$file: the control variant does not compile:"
      echo "$output"
      exit 1
    fi
    ;;
  rejects)
    if ((status == 0)); then
      echo "$file: compiles, but should be rejected with: $expected"
      exit 1
    fi
    if [[ $output != *"$expected"* ]]; then
      echo "$file: is rejected without the text: $expected"
      echo "$output"
      exit 1
    fi
    ;;
  *)
    echo "unknown variant '$variant'; use rejects or control"
    exit 2
    ;;
esac
