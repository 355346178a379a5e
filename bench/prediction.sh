#!/usr/bin/env bash
# usage: bench/prediction.sh [--rounds N] [--ranks "1 2 4"] [CHECKPOINT...]
# How well the planner predicts where it has calibrated in the same job: three models (without CHECKPOINTs: GPT-2, Qwen3-0.6B and
# four layers of Llama-3-8B, synthesized once into build/prediction, 5.3 GB) on 1, 2 and 4 MPI processes, by four ways to load.
# Medians of the rounds (5), in each of which there is one calibration and all ways take their turns. Results, as printed, in
# build/bench/prediction.txt.
set -euo pipefail

rounds=5
ranks="1 2 4"
checkpoints=()
while (($#)); do
  case $1 in
    --rounds | --ranks)
      if (($# < 2)); then echo "prediction.sh: $1 needs a value" >&2; exit 2; fi
      if [[ $1 == --rounds ]]; then rounds=$2; else ranks=$2; fi
      shift 2
      ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    -*) echo "prediction.sh: unknown argument '$1'" >&2; exit 2 ;;
    *) checkpoints+=("$(realpath -- "$1")"); shift ;;
  esac
done
for number in $rounds $ranks; do
  if [[ ! $number =~ ^[1-9][0-9]{0,2}$ ]]; then echo "prediction.sh: '$number' is no number of rounds or ranks" >&2; exit 2; fi
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash cmake/packages.sh build mpi test
FSDPINIT_REQUIRE_TOOL=1 FSDPINIT_REQUIRE_MPI=1 cmake --preset release >/dev/null
cmake --build --preset release --parallel "$(nproc)" --target fsdpinit_tool fsdpinit_prediction_ratio -- --quiet

if ((${#checkpoints[@]} == 0)); then
  mkdir -p build/prediction
  for model in gpt2 qwen3-0.6b llama3-8b:4; do
    folder=build/prediction/${model/:/-}
    layers=()
    if [[ $model == *:* ]]; then layers=(--layers "${model#*:}"); fi
    if [[ ! -e $folder ]]; then build/release/fsdpinit synthesize --model "${model%%:*}" "${layers[@]}" "$folder"; fi
    checkpoints+=("$folder")
  done
fi

# Open MPI asks to be told of more ranks than cores, from 5 on by another name; and of root, who is everybody in a container.
export OMPI_MCA_rmaps_base_oversubscribe=true PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
mkdir -p build/bench
: >build/bench/prediction.jsonl
for number in $ranks; do
  # A model at a time: what one has left in memory does not slow the next one down.
  for checkpoint in "${checkpoints[@]}"; do
    mpiexec -n "$number" build/release/bench/fsdpinit_prediction_ratio "$rounds" "$checkpoint" >>build/bench/prediction.jsonl
  done
done
python3 bench/prediction_table.py build/bench/prediction.jsonl | tee build/bench/prediction.txt
