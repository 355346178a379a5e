#!/usr/bin/env bash
# The check must be able to fail: on a block that differs, on a region that does not exist, and on nothing to check.
set -euo pipefail

check=$(dirname "${BASH_SOURCE[0]}")/check.sh
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch"/{examples,tests}
printf 'int a;\n  // [tag]\n  int b;\n    int c;\n  // [tag]\n' >"$scratch/examples/x.cpp"
printf '# [tag]\nproject(x)\n# [tag]\n' >"$scratch/tests/CMakeLists.txt"

page() { printf '<!-- %s [%s] -->\n```cpp\n%b```\n' "${3:-examples/x.cpp}" "$1" "$2" >"$scratch/page.md"; }
expect() {  # 0 or 1
  local status=0
  bash "$check" "$scratch/page.md" "$scratch" >"$scratch/out" || status=$?
  if [[ $status != "$1" ]]; then
    echo "expected exit code $1, got $status for:"
    cat "$scratch/page.md" "$scratch/out"
    exit 1
  fi
}
page tag 'int b;\n  int c;\n' && expect 0
page tag 'int b;\n  int d;\n' && expect 1
page tag 'project(x)\n' tests/CMakeLists.txt && expect 0
page tag 'project(y)\n' tests/CMakeLists.txt && expect 1
page other 'int b;\n' && expect 1
echo 'no code' >"$scratch/page.md" && expect 1

# Nor may what a tool prints be another thing, or nothing.
output=$(dirname "${BASH_SOURCE[0]}")/output.sh
printf '#!/bin/sh\necho "$1 and $2"\n' >"$scratch/tool"
chmod +x "$scratch/tool"
prints() {  # 0 or 1, and what README says that the tool prints
  printf 'In short, `fsdpinit one two` prints\n\n```\n%b```\n' "$2" >"$scratch/page.md"
  local status=0
  bash "$output" "$scratch/page.md" "$scratch" "$scratch/tool" >"$scratch/out" || status=$?
  if [[ $status != "$1" ]]; then
    echo "expected exit code $1, got $status for:"
    cat "$scratch/page.md" "$scratch/out"
    exit 1
  fi
}
prints 0 'one and two\n'
prints 1 'one and three\n'
prints 1 'one and two\nand more\n'
prints 1 ''
printf '#!/bin/sh\necho "$1 and $2"\nexit 1\n' >"$scratch/tool"
prints 1 'one and two\n'
echo 'nothing' >"$scratch/page.md"
if bash "$output" "$scratch/page.md" "$scratch" "$scratch/tool" >"$scratch/out"; then
  echo "a page without a block passes"
  exit 1
fi
