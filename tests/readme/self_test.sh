#!/usr/bin/env bash
# The checks must be able to fail: on a block that differs, on a region that does not exist, on code from nowhere, on another output,
# on a link that leads nowhere, and on nothing to check.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
page=$scratch/page.md

expect() {  # 0 or 1, then the command
  local status=0 wanted=$1
  shift
  "$@" >"$scratch/out" 2>&1 || status=$?
  if [[ $status != "$wanted" ]]; then
    echo "expected exit code $wanted, got $status for:"
    cat "$page" "$scratch/out"
    exit 1
  fi
}

# -- quoted code -----------------------------------------------------------------------------------------------------------------

mkdir "$scratch"/{examples,tests}
printf '#include <y.hpp>\nint a;\n  // [tag]\n  int b;\n    int c;\n  // [tag]\n' >"$scratch/examples/x.cpp"
printf '# [tag]\nproject(x)\n# [tag]\n' >"$scratch/tests/CMakeLists.txt"

quotes() { printf '<!-- %s [%s]%s -->\n```cpp\n%b```\n' "${3:-examples/x.cpp}" "$1" "${4-}" "$2" >"$page"; }
quotes_with() { quotes tag "$2" examples/x.cpp " $1"; }
check() { expect "$1" bash "$here/check.sh" "$scratch" "${@:2}"; }
block='#include <y.hpp>\n\nint b;\n  int c;\n'
quotes_with y.hpp "$block" && check 0 "$page"
quotes_with y.hpp 'int b;\n  int c;\n' && check 1 "$page"
quotes_with y.hpp '#include <y.hpp>\n\nint b;\n  int d;\n' && check 1 "$page"
quotes_with z.hpp "$block" && check 1 "$page"
quotes tag 'int b;\n  int c;\n' && check 1 "$page"
quotes tag 'project(x)\n' tests/CMakeLists.txt && check 0 "$page"
quotes tag 'project(y)\n' tests/CMakeLists.txt && check 1 "$page"
quotes '*' '# [tag]\nproject(x)\n# [tag]\n' tests/CMakeLists.txt && check 0 "$page"
quotes '*' 'project(x)\n' tests/CMakeLists.txt && check 1 "$page"
quotes other 'int b;\n' && check 1 "$page"
echo 'no code' >"$page" && check 1 "$page"

quotes_with y.hpp "$block" && cp "$page" "$scratch/good.md"
quotes tag 'int b;\n  int c;\n' && cat "$scratch/good.md" "$page" >"$scratch/twice.md" && check 0 "$scratch/twice.md"
echo 'no code' >"$page" && check 0 "$scratch/good.md" "$page"
for language in cpp c++ cuda cmake; do
  printf '```%s\nint d;\n```\n' "$language" >"$page" && check 1 "$scratch/good.md" "$page"
done
printf '```sh\n<!-- examples/x.cpp [tag] -->\n```\n' >"$page" && check 0 "$scratch/good.md" "$page"
printf '<!-- examples/x.cpp [tag] -->\ntext\n' >"$page" && check 1 "$scratch/good.md" "$page"
printf '```\nnot closed\n' >"$page" && check 1 "$scratch/good.md" "$page"
printf '<!-- examples/x.cpp [tag] -->\n```cpp\nint b;\n  int c;\n' >"$page" && check 1 "$page" "$scratch/good.md"

# -- what programs print -----------------------------------------------------------------------------------------------------------

mkdir "$scratch/build" "$scratch/build/examples"
program() { printf '#!/bin/sh\necho "$1 and $2"\nexit %s\n' "$2" >"$1" && chmod +x "$1"; }
prints() { printf 'In short, `%s one two` prints\n\n```\n%b```\n' "${2:-fsdpinit}" "$1" >"$page"; }
output() { expect "$1" bash "$here/output.sh" "$scratch" "$scratch/build" "$page"; }
program "$scratch/build/fsdpinit" 0
program "$scratch/build/examples/fsdpinit_x" 0
prints 'one and two\n' && output 0
prints 'one and two\n' fsdpinit_x && output 0
prints 'one and two\n' fsdpinit_y && output 1
prints 'one and three\n' && output 1
prints 'one and two\nand more\n' && output 1
prints '' && output 1
printf 'Here `fsdpinit one two` prints\n\nnothing\n\n```\none and two\n```\n' >"$page" && output 1
program "$scratch/build/fsdpinit" 1
prints 'one and two\n' && output 1
echo 'nothing' >"$page" && output 1

# -- links -------------------------------------------------------------------------------------------------------------------------

printf '# A page\n\n## With `a heading`, and more\n' >"$scratch/other.md"
links() { echo "$2" >"$page" && expect "$1" bash "$here/links.sh" "$page"; }
links 0 'see [the other](other.md), [its part](other.md#with-a-heading-and-more) and [the web](https://example.org/x)'
links 0 'a [folder](examples)'
mkdir "$scratch/include" && echo 'struct known {};' >"$scratch/include/x.hpp"
links 0 'see [`known`](include/x.hpp), [`some::known{x}`](include/x.hpp) and [x.hpp](include/x.hpp)'
links 1 'see [`known`](include/x.hpp) and [`unknown`](include/x.hpp)'
links 1 'see [`known`](include/y.hpp)'
links 1 'see [another](another.md)'
links 1 'see [its part](other.md#without-a-heading)'
links 1 'see [here](#nowhere)'
links 1 'see [the web](https://example.org/x) alone'
links 1 'code `[x](other.md)` alone'
