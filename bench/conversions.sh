#!/usr/bin/env bash
# usage: bench/conversions.sh [--pairs N] [--ranks N] [--layers N] [--bucket BYTES]
# What do fused and stacked tensors cost? Loads a checkpoint of Qwen3-30B-A3B's first layers (2: 3.7 GB) as it is stored, and with its
# experts stacked and its projections fused, as frameworks hold them; and with the experts transposed, too. In pairs that alternate (15),
# on N ranks (4) under MPI, scattered and by own reads. See against.sh for the table. Below it, what each rank's account had at most, beside
# what was planned; the script fails where these differ.
# Results, as printed: build/bench/conversions.txt; all samples beside it, as JSON.
set -euo pipefail

usage() { sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
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
write_map() {  # FILE, along which dim gates and ups are joined, what turns an expert: before its name, and behind it
  local gate=$3'"{p...}.experts.{e}.gate_proj.weight"'$4
  local up=$3'"{p...}.experts.{e}.up_proj.weight"'$4
  local down=$3'"{p...}.experts.{e}.down_proj.weight"'$4
  cat >"$1" <<END
{"rules": [
  {"make": "{p...}.qkv_proj.weight",
   "from": {"concat": ["{p...}.q_proj.weight", "{p...}.k_proj.weight", "{p...}.v_proj.weight"], "dim": 0}},
  {"make": "{p...}.experts.gate_up_proj",
   "from": {"concat": [{"stack": $gate, "over": "e"}, {"stack": $up, "over": "e"}], "dim": $2}},
  {"make": "{p...}.experts.down_proj", "from": {"stack": $down, "over": "e"}}
]}
END
}
write_map "$stacked" 1 '' ''
write_map "$transposed" 2 '{"permute": ' ', "dims": [1, 0]}'

python3 bench/against.py --self-test
compare() {  # MAP
  echo "old: as it is stored; new: $(basename "$1" .json)"
  python3 bench/against.py --old "$tool" --new "$tool" --new-with "--map $1" --checkpoint "$checkpoint" --pairs "$pairs" --ranks "$ranks" \
    --ways mpi-scatter,mpi-own-read --samples "build/bench/conversions-$(basename "$1")" "${both[@]}"
  local transport
  for transport in scatter own-read; do
    mpirun -n "$ranks" "$tool" load "$checkpoint" --shards "$ranks" --launcher mpi --transport "$transport" --map "$1" \
      --report build/bench/report.json >/dev/null
    python3 - "$transport" build/bench/report.json <<'END'
import json
import sys

ranks = json.load(open(sys.argv[2]))["ranks"]
print(f"{sys.argv[1]}: peak per rank, planned:", *(each["predicted_peak_bytes"] for each in ranks))
print(f"{sys.argv[1]}: peak per rank, accounted:", *(each["accounted_peak_bytes"] for each in ranks))
sys.exit(any(each["predicted_peak_bytes"] != each["accounted_peak_bytes"] for each in ranks))
END
  done
  echo
}
export OMPI_MCA_rmaps_base_oversubscribe=true PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
{
  compare "$stacked"
  compare "$transposed"
} | tee build/bench/conversions.txt
