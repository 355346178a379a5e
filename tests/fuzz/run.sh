#!/usr/bin/env bash
# usage: tests/fuzz/run.sh [--seconds N] [--corpus DIR] [NAME...]
# Builds the fuzzers and lets each run for N seconds (15), as many at once as there are cores, from the inputs in the repository and
# those in DIR/<name>, where new ones are kept. Ends with a table; fails if any of them finds something, and keeps that in build/fuzz/.
set -euo pipefail

seconds=15
corpus=
names=()
while (($#)); do
  case $1 in
    --seconds) seconds=$2; shift ;;
    --corpus) corpus=$(realpath -m "$2"); shift ;;
    -*) echo "tests/fuzz/run.sh: unknown option '$1'; use --seconds N, --corpus DIR" >&2; exit 2 ;;
    *) names+=("$1") ;;
  esac
  shift
done
if ((${#names[@]} == 0)); then names=(header index rules arguments transports); fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bash cmake/packages.sh build test lint
cmake --preset asan >/dev/null
cmake --build --preset fuzz --parallel "$(nproc)" -- --quiet

build=$PWD/build/fuzz
rm -rf "$build/logs"
mkdir -p "$build/logs" "$build/findings"
fuzz() {
  local name=$1 kept=$build/new/$1
  if [[ -n $corpus ]]; then kept=$corpus/$name; else rm -rf "$kept"; fi
  mkdir -p "$kept"
  # The harness ends a case whose ranks hang; help texts would fill the log.
  build/asan/tests/fuzz/fsdpinit_fuzz_"$name" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=4096 -print_final_stats=1 \
    -close_fd_mask=1 -artifact_prefix="$build/findings/$name-" "$kept" "tests/fuzz/corpus/$name" \
    >"$build/logs/$name" 2>&1
}
running=()
status=0
for name in "${names[@]}"; do
  if ((${#running[@]} == $(nproc))); then
    wait "${running[0]}" || status=1
    running=("${running[@]:1}")
  fi
  fuzz "$name" &
  running+=($!)
done
for process in "${running[@]}"; do wait "$process" || status=1; done

printf '%-12s %12s %10s %10s %10s\n' fuzzer executions coverage features corpus
for name in "${names[@]}"; do
  log=$build/logs/$name
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  last=$(grep -E '^#[0-9]+.* cov: ' "$log" | tail -n 1)
  printf '%-12s %12s %10s %10s %10s\n' "$name" "${executions:-stopped}" \
    "$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' <<<"$last")" "$(sed -n 's/.* ft: \([0-9]*\).*/\1/p' <<<"$last")" \
    "$(sed -n 's/.* corp: \([0-9]*\).*/\1/p' <<<"$last")"
done
if ((status)); then
  for name in "${names[@]}"; do grep -HE '^(fuzz:|==[0-9]+==|SUMMARY|artifact_prefix|.*runtime error)' "$build/logs/$name" || true; done
fi
exit $status
