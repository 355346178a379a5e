#!/usr/bin/env bash
# usage: examples/clusters/sweep.sh [--model NAME | --checkpoint PATH] [--cluster FILE.json] [--most RANKS] [--bucket-bytes B]
# Plays an initialisation through on 1, 2, 4, ... ranks, by each way to load, on a cluster of given figures: the ranks of one node
# first, then more and more such nodes. Writes build/demo/cluster.dat and draws build/demo/cluster.png. Defaults: qwen3-8b, of
# which no file is needed; examples/clusters/four_nodes_shared_storage.json; 16384 ranks; buckets of 64MiB.
set -euo pipefail

model=qwen3-8b
cluster=
most=16384
bucket=64MiB
usage() {
  sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}"
}
while (($#)); do
  case $1 in
    --model | --checkpoint | --cluster | --most | --bucket-bytes)
      if (($# < 2)); then echo "sweep.sh: $1 needs a value" >&2; exit 2; fi
      case $1 in
        --model) model=$2 ;;
        --checkpoint) model=$(realpath -ms -- "$2") ;;
        --cluster) cluster=$(realpath -ms -- "$2") ;;
        --most) most=$2 ;;
        --bucket-bytes) bucket=$2 ;;
      esac
      shift 2
      ;;
    -h | --help) usage; exit 0 ;;
    *) echo "sweep.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done
if [[ ! $most =~ ^[1-9][0-9]{0,4}$ ]]; then echo "sweep.sh: '$most' is no number of ranks" >&2; exit 2; fi

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
demo=build/demo
mkdir -p "$demo"
cluster=${cluster:-examples/clusters/four_nodes_shared_storage.json}
if [[ ! -r $cluster ]]; then echo "sweep.sh: $cluster cannot be read" >&2; exit 1; fi

fsdpinit=${FSDPINIT_TOOL:-}
if [[ -z $fsdpinit ]]; then
  bash cmake/packages.sh build demo
  if [[ ! -f $demo/build/build.ninja ]]; then echo "building the tool (half a minute the first time)"; fi
  FSDPINIT_REQUIRE_TOOL=1 cmake -S . -B "$demo/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DFSDPINIT_BUILD_TESTS=OFF -DFSDPINIT_BUILD_BENCH=OFF >/dev/null
  if ! cmake --build "$demo/build" --target fsdpinit_tool >"$demo/build.log" 2>&1; then
    cat "$demo/build.log" >&2
    exit 1
  fi
  fsdpinit=$demo/build/fsdpinit
fi

# A way to load is a block of lines in the .dat, as gnuplot indexes them.
per_node=$(sed -n 's/^ *"ranks_per_node": *\([0-9]*\),\{0,1\} *$/\1/p' "$cluster")
if [[ -z $per_node ]]; then echo "sweep.sh: $cluster: no line with ranks_per_node" >&2; exit 1; fi
rm -f "$demo"/sweep.*.rows
for ((ranks = 1; ranks <= most; ranks *= 2)); do
  in_node=$((ranks < per_node ? ranks : per_node))
  if ((ranks % in_node != 0)); then continue; fi
  sed "s/\"nodes\": *[0-9]*/\"nodes\": $((ranks / in_node))/; s/\"ranks_per_node\": *[0-9]*/\"ranks_per_node\": $in_node/" \
    "$cluster" >"$demo/sweep.json"
  echo "$ranks ranks"
  "$fsdpinit" plan "$model" --cluster "$demo/sweep.json" --bucket-bytes "$bucket" --simulate --json |
    awk -v ranks="$ranks" -v prefix="$demo/sweep" '
      function value() { sub(/^[^:]*: /, ""); sub(/,$/, ""); gsub(/"/, ""); return $0 }
      /^ *"name": /              { name = value(); seconds = "" }
      /^ *"seconds": /           { if (seconds == "") seconds = value(); else simulated = value() }
      /^ *"host_peak_bytes": /   { host = value() }
      /^ *"device_peak_bytes": / { device = value() }
      /^ *"source_waited_seconds": / { waited = value() }
      /^ *"staging_peak_bytes": / {
        file = name; gsub(/[^a-z]+/, "-", file)
        printf "%d %s %s %s %.0f %.0f %.0f\n", ranks, simulated, seconds, waited, host + device, host, value() >> (prefix "." file ".rows")
      }'
done
names=(broadcast scatter scatter-a-source-per-node own-read every-rank-loads)
for name in "${names[@]}"; do
  printf '# %s: ranks, simulated seconds, seconds of the model, seconds the source waited, bytes: peak, of it host, staging\n' "$name"
  cat "$demo/sweep.$name.rows" 2>/dev/null || echo '1 NaN NaN NaN NaN NaN NaN'
  printf '\n\n'
done >"$demo/cluster.dat"
rm -f "$demo"/sweep.*.rows "$demo/sweep.json"

gnuplot -e "out='$demo/cluster.png'; data='$demo/cluster.dat'; name='$(basename "$model" | tr -d \')'; per_node=$per_node" \
  examples/clusters/sweep.gnuplot
echo "seconds and memory against ranks: $demo/cluster.png, from $demo/cluster.dat"
