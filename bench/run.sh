#!/usr/bin/env bash
# usage: bench/run.sh [CHECKPOINT]
# Microbenchmarks, then whole loads beside their floor (median of 9, alternating), on 4 threads and on 4 MPI processes. Without
# CHECKPOINT: Qwen3-0.6B, synthesized once into build/demo (1.2 GB). Results, as printed, in build/bench/.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash cmake/packages.sh build mpi test
FSDPINIT_REQUIRE_TOOL=1 FSDPINIT_REQUIRE_MPI=1 cmake --preset release >/dev/null
cmake --build --preset release --parallel "$(nproc)" --target fsdpinit_tool fsdpinit_bench fsdpinit_load_ratio \
  fsdpinit_mpi_ratio -- --quiet

checkpoint=${1:-build/demo/qwen3-0.6b}
if [[ $# -eq 0 && ! -e $checkpoint ]]; then
  mkdir -p build/demo
  build/release/fsdpinit synthesize --model qwen3-0.6b "$checkpoint"
fi
mkdir -p build/bench
build/release/bench/fsdpinit_bench | tee build/bench/micro.txt
echo
build/release/bench/fsdpinit_load_ratio "$checkpoint" 9 4 | tee build/bench/load.txt
echo
# Open MPI asks to be told of more ranks than cores, from 5 on by another name; and of root, who is everybody in a container.
export OMPI_MCA_rmaps_base_oversubscribe=true PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
mpiexec -n 4 build/release/bench/fsdpinit_mpi_ratio "$checkpoint" 9 | tee build/bench/mpi.txt
