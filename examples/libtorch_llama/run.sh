#!/usr/bin/env bash
# usage: examples/libtorch_llama/run.sh [LAYERS]
# Builds the example, makes a checkpoint of Qwen3-0.6B (of LAYERS layers, all 28 without), brings it up in shards on 4 processes over
# Gloo, and draws what each held: build/demo/libtorch.png.
set -euo pipefail

layers=${1:-28}
ranks=4
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
demo=build/demo/libtorch
bash cmake/packages.sh build mpi torch demo
cmake --preset release >/dev/null
cmake --build --preset release --parallel "$(nproc)" --target fsdpinit_libtorch_llama fsdpinit_tool -- --quiet
mkdir -p "$demo"
trap 'rm -rf "$demo/checkpoint"' EXIT
build/release/fsdpinit synthesize --model qwen3-0.6b --layers "$layers" --published-duplicates "$demo/checkpoint"
bash examples/libtorch_llama/launch.sh "$ranks" build/release/examples/fsdpinit_libtorch_llama "$demo/checkpoint" 0 "$layers" \
  "$demo/rank" | tee "$demo/log"

{ head -n 1 "$demo/rank.0.csv"; for file in "$demo"/rank.*.csv; do tail -n +2 "$file"; done } >"$demo/libtorch.csv"
model=$(awk '/MiB of shards/ { sum += $5 } END { printf "%.0f", sum * 1048576 }' "$demo/log")
gnuplot -e "out='build/demo/libtorch.png'; folder='$demo'; labels='libtorch'; model=$model.0; ranks=$ranks; \
name='Qwen3-0.6B in float32'; optimizer=0" examples/memory.gnuplot
echo "build/demo/libtorch.png"
