#!/usr/bin/env bash
# usage: check.sh rejects|control FILE COMPILER [FLAG...]
#        check.sh precompile HEADER COMPILER [FLAG...]
#
# FILE begins with a line `// expect: <fixed text>`, or with several.
#   rejects  passes when FILE does not compile, the first error of the compiler is the first text, the other texts are told with it, and
#            all of the output is no longer than a reader's screen.
#   control  passes when FILE compiles with -DFSDPINIT_CONTROL: the file's mistake, and nothing else, is what is rejected.
# precompile leaves HEADER.gch, which makes -include HEADER among the flags of the others cheap: they take most of their time for the
# library's headers.
set -euo pipefail

variant=$1 file=$2 compiler=$3
shift 3

if [[ $variant == precompile ]]; then
  # Clang would leave templates that the header itself uses to each file that includes it.
  if [[ $("$compiler" --version) == *clang* ]]; then set -- "$@" -fpch-instantiate-templates; fi
  exec "$compiler" "$@" -x c++-header "$file" -o "$file.gch"
fi

most_lines=25

expected=()
while IFS= read -r line && [[ $line == "// expect: "?* ]]; do expected+=("${line#"// expect: "}"); done <"$file"
if ((${#expected[@]} == 0)); then
  echo "$file: the first line must be '// expect: <text of the error>'"
  exit 1
fi

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
      echo "$file: compiles, but should be rejected with: ${expected[0]}"
      exit 1
    fi
    # What belongs to the first error: where it comes from stands before it (GCC) or after it (Clang).
    first=$(awk '/(^|[ :])error: / && ++errors == 2 { exit } { print }' <<<"$output")
    for text in "${expected[@]}"; do
      if [[ $output != *"$text"* ]]; then
        echo "$file: is rejected without the text: $text"
        echo "$output"
        exit 1
      fi
      if [[ $first != *"$text"* ]]; then
        echo "$file: another error is told before: $text"
        echo "$output"
        exit 1
      fi
    done
    if [[ $(grep -m 1 -E '(^|[ :])error: ' <<<"$output") != *"${expected[0]}"* ]]; then
      echo "$file: the first error does not say: ${expected[0]}"
      echo "$output"
      exit 1
    fi
    lines=$(grep -cvE '^ *[0-9]* \|' <<<"$output")  # without the source that is shown: some compilers show each step
    if ((lines > most_lines)); then
      echo "$file: is told in $lines lines, more than $most_lines"
      echo "$output"
      exit 1
    fi
    ;;
  *)
    echo "unknown variant '$variant'; use rejects, control or precompile"
    exit 2
    ;;
esac
