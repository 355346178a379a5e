#!/usr/bin/env bash
# usage: bench/conversions.sh [--pairs N] [--ranks N] [--layers N] [--bucket BYTES]
# What do fused and stacked tensors cost? Loads a checkpoint of Qwen3-30B-A3B's first layers (2: 3.7 GB) as it is stored, and with its
# experts stacked and its projections fused, as frameworks hold them; and with the experts transposed, too. In pairs that alternate (15),
# on N ranks (4) under MPI, scattered and by own reads. See against.sh for the table. Then the memory of each rank, beside what was planned.
# Results, as printed: build/bench/conversions.txt; all samples beside it, as JSON.
set -euo pipefail

usage() { sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
pairs=15
ranks=4
layers=2
both=()
while (($#)); do
  case $1 in
    --pairs | --ranks | --layers | --bucket)
      if (($# < 2)); then echo "conversions.sh: $1 needs a value" >&2; exit 2; fi
      case $1 in
        --pairs) pairs=$2 ;;
        --ranks) ranks=$2 ;;
        --layers) layers=$2 ;;
        *) both=(--both-with "--bucket-bytes $2") ;;
      esac
      shift 2
      ;;
    -h | --help) usage; exit 0 ;;
    *) echo "conversions.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash cmake/packages.sh build mpi
build=build/against/working/build
FSDPINIT_REQUIRE_TOOL=1 FSDPINIT_REQUIRE_MPI=1 cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DFSDPINIT_BUILD_TESTS=OFF -DFSDPINIT_BUILD_BENCH=OFF -DFSDPINIT_BUILD_DOCS=OFF >/dev/null
cmake --build "$build" --parallel "$(nproc)" --target fsdpinit_tool -- --quiet
tool=$build/fsdpinit

checkpoint=build/against/qwen3-30b-a3b-$layers
if [[ ! -e $checkpoint ]]; then
  "$tool" synthesize --model qwen3-30b-a3b --layers "$layers" "$checkpoint" >/dev/null
fi
mkdir -p build/bench
stacked=build/bench/stacked.json
transposed=build/bench/transposed.json
write_map() {  # FILE, how an expert is turned
  local gate up down
  gate=$(printf "$2" '"{p...}.experts.{e}.gate_proj.weight"')
  up=$(printf "$2" '"{p...}.experts.{e}.up_proj.weight"')
  down=$(printf "$2" '"{p...}.experts.{e}.down_proj.weight"')
  cat >"$1" <<END
{"rules": [
  {"make": "{p...}.qkv_proj.weight",
   "from": {"concat": ["{p...}.q_proj.weight", "{p...}.k_proj.weight", "{p...}.v_proj.weight"], "dim": 0}},
  {"make": "{p...}.experts.gate_up_proj",
   "from": {"concat": [{"stack": $gate, "over": "e"}, {"stack": $up, "over": "e"}], "dim": ${3}}},
  {"make": "{p...}.experts.down_proj", "from": {"stack": $down, "over": "e"}}
]}
END
}
write_map "$stacked" '%s' 1
write_map "$transposed" '{"permute": %s, "dims": [1, 0]}' 2

python3 bench/against.py --self-test
compare() {  # MAP
  echo "old: as it is stored; new: $(basename "$1" .json)"
  python3 bench/against.py --old "$tool" --new "$tool" --new-with "--map $1" --checkpoint "$checkpoint" --pairs "$pairs" --ranks "$ranks" \
    --ways mpi-scatter,mpi-own-read --samples "build/bench/conversions-$(basename "$1")" "${both[@]}"
  echo
}
{
  compare "$stacked"
  compare "$transposed"
} | tee build/bench/conversions.txt
