#!/usr/bin/env bash
# usage: tests/run.sh [--preset NAME] [CTEST ARGUMENT...]
# Builds and runs all tests: packages, configure, build, ctest. Other arguments go to ctest, e.g. -R plan/ or -L ^init.
set -euo pipefail

preset=release
if [[ ${1:-} == --preset ]]; then
  preset=$2
  shift 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
jobs=$(nproc)

bash cmake/packages.sh build mpi torch test
case $preset in
  clang | asan | tsan) bash cmake/packages.sh lint ;;
esac

cmake --preset "$preset" >/dev/null  # warnings and errors still show
# Not a terminal: one line per compiled file would bury what matters.
if [[ -t 1 ]]; then quiet=(); else quiet=(--quiet); fi
cmake --build --preset "$preset" --parallel "$jobs" -- "${quiet[@]}"

launcher=()
if [[ $preset == tsan ]] && setarch -R true 2>/dev/null; then
  # Older ThreadSanitizer runtimes do not start where the kernel randomises addresses with more bits than they expect.
  launcher=(setarch -R)
fi
# One more than cores: many tests wait for a deadline.
run_ctest() { "${launcher[@]}" ctest --preset "$preset" --parallel $((jobs + 1)) "$@"; }
status=0
if [[ -t 1 ]]; then
  run_ctest --progress "$@" || status=$?
else
  # Everything but the lines of tests that start or pass.
  run_ctest "$@" | { grep -Ev '^ *(Start +[0-9]+: |[0-9]+/[0-9]+ Test +#[0-9]+: .* Passed +[0-9.]+ sec$)' || true; } || status=$?
fi
# Why tests of GoogleTest were skipped: ctest names them at most.
sed -n '/: Skipped$/ { N; s/\n/ /p }' "build/$preset/Testing/Temporary/LastTest.log" | sort -u
exit $status
