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
