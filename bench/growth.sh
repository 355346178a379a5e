#!/usr/bin/env bash
# usage: bench/growth.sh [ROUNDS]
# How a load grows with bytes and with tensors, on threads; how buckets of other sizes, and more of them in flight, do on 2 and 4 MPI
# processes (Qwen3-0.6B, synthesized once into build/demo). Medians of 9 rounds. Writes 3.1 GB; results, as printed, in build/bench/.
set -euo pipefail

rounds=${1:-9}
if [[ ! $rounds =~ ^[1-9][0-9]{0,2}$ ]]; then sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash cmake/packages.sh build mpi test
FSDPINIT_REQUIRE_TOOL=1 FSDPINIT_REQUIRE_MPI=1 cmake --preset release >/dev/null
cmake --build --preset release --parallel "$(nproc)" --target fsdpinit_tool fsdpinit_growth fsdpinit_bucket_ratio -- --quiet
mkdir -p build/bench build/demo
if [[ ! -e build/demo/qwen3-0.6b ]]; then build/release/fsdpinit synthesize --model qwen3-0.6b build/demo/qwen3-0.6b; fi

build/release/bench/fsdpinit_growth build/growth "$rounds" | tee build/bench/growth.txt
# Open MPI asks to be told of more ranks than cores, from 5 on by another name; and of root, who is everybody in a container.
export OMPI_MCA_rmaps_base_oversubscribe=true PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
for ranks in 2 4; do
  echo
  mpiexec -n "$ranks" build/release/bench/fsdpinit_bucket_ratio build/demo/qwen3-0.6b "$rounds"
done | tee build/bench/buckets.txt
