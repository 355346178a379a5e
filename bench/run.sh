#!/usr/bin/env bash
# usage: bench/run.sh [CHECKPOINT]
# Microbenchmarks, then whole loads beside their floor (median of 9, alternating). Without CHECKPOINT: Qwen3-0.6B, synthesized
# once into build/demo (1.2 GB). Results, as printed, in build/bench/.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash cmake/packages.sh build test
FSDPINIT_REQUIRE_TOOL=1 cmake --preset release >/dev/null
cmake --build --preset release --parallel "$(nproc)" --target fsdpinit_tool fsdpinit_bench fsdpinit_load_ratio -- --quiet

checkpoint=${1:-build/demo/qwen3-0.6b}
if [[ $# -eq 0 && ! -e $checkpoint ]]; then
  mkdir -p build/demo
  build/release/fsdpinit synthesize --model qwen3-0.6b "$checkpoint"
fi
mkdir -p build/bench
build/release/bench/fsdpinit_bench | tee build/bench/micro.txt
echo
build/release/bench/fsdpinit_load_ratio "$checkpoint" 9 4 | tee build/bench/load.txt
