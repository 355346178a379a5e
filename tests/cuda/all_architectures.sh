#!/usr/bin/env bash
# usage: tests/cuda/all_architectures.sh [ARCHITECTURE...]
# Before a release: compiles and links what has kernels for GPUs of all these architectures (80 90 100), of which .ci/run takes only 90.
# Without a GPU nothing of it runs; on a machine with one, the tests of the kernels do.
set -euo pipefail

architectures=("$@")
if ((${#architectures[@]} == 0)); then architectures=(80 90 100); fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=build/cuda-architectures
mkdir -p "$build"

list=$(IFS=';' && echo "${architectures[*]}")
FSDPINIT_REQUIRE_KERNELS=1 FSDPINIT_REQUIRE_NCCL=1 cmake --preset release -B "$build" -DCMAKE_CUDA_ARCHITECTURES="$list" \
  -DFSDPINIT_BUILD_BENCH=OFF >"$build/configure.log" || { tail -n 20 "$build/configure.log"; exit 1; }
cmake --build "$build" --parallel "$(nproc)" --target fsdpinit_kernels_tests fsdpinit_gpt_cuda -- --quiet

# That a program has code for each of them is asked of the program, not of the flags. (cuobjdump, which is for that, is a package of its own.)
missing=0
for program in tests/fsdpinit_kernels_tests examples/fsdpinit_gpt_cuda; do
  for architecture in "${architectures[@]}"; do
    if ! grep -aqE "sm_$architecture([^0-9]|$)" "$build/$program"; then
      echo "$program has no code for sm_$architecture"
      missing=1
    fi
  done
done
if ((missing)); then exit 1; fi
echo "compiled and linked for sm_${list//;/, sm_}"

if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
  "$build/tests/fsdpinit_kernels_tests" --gtest_brief=1
fi
