#!/usr/bin/env bash
# usage: examples/run.sh [--model NAME | --checkpoint PATH] [--ranks N] [--runs N] [--limit GIB]
# Loads a model on N ranks, which are MPI processes, in each way; prints a table and draws build/demo/memory.png.
#   --model NAME       one that the tool's `synthesize` knows, written with made-up values under build/demo;
#                      default qwen3-0.6b, 1.2 GB
#   --checkpoint PATH  load this one instead
#   --ranks N          default 4
#   --runs N           of so many the median is shown; default 3
#   --limit GIB        the address space that a rank may use (ulimit -v); ways that do not fit are listed
set -euo pipefail

ranks=4
runs=3
model_name=qwen3-0.6b
checkpoint=
limit_gib=
usage() {
  sed -n '2,9s/^# //p' "${BASH_SOURCE[0]}"
}
while (($#)); do
  case $1 in
    --model | --checkpoint | --ranks | --runs | --limit)
      if (($# < 2)); then echo "run.sh: $1 needs a value" >&2; exit 2; fi
      case $1 in
        --model) model_name=$2 ;;
        --checkpoint) checkpoint=$(realpath -ms -- "$2") ;;
        --limit) limit_gib=$2 ;;
        --ranks) ranks=$2 ;;
        --runs) runs=$2 ;;
      esac
      shift 2
      ;;
    -h | --help) usage; exit 0 ;;
    *) echo "run.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done
for number in "$ranks" "$runs" "${limit_gib:-1}"; do
  if [[ ! $number =~ ^[1-9][0-9]{0,3}$ ]]; then echo "run.sh: '$number' is no number of ranks, runs or GiB" >&2; exit 2; fi
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
demo=build/demo
mkdir -p "$demo"

# -- the tool, in a build folder of its own, which needs no test packages ----------------------------------------------------

bash cmake/packages.sh build mpi demo
if [[ ! -f $demo/build/build.ninja ]]; then echo "building the tool (a minute the first time)"; fi
# At -O1, which takes the compiler two thirds of the time of -O3: bytes are moved by the system and by memcpy.
FSDPINIT_REQUIRE_TOOL=1 FSDPINIT_REQUIRE_MPI=1 cmake -S . -B "$demo/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CXX_FLAGS_RELEASE='-O1 -DNDEBUG' \
  -DFSDPINIT_BUILD_{TESTS,BENCH,DOCS}=OFF -DFSDPINIT_WITH_{CUDA,NCCL,TORCH}=OFF >/dev/null
if ! cmake --build "$demo/build" --target fsdpinit_tool >"$demo/build.log" 2>&1; then
  cat "$demo/build.log" >&2
  exit 1
fi
fsdpinit=$demo/build/fsdpinit

# Runs a command; where there is no terminal for its progress, that is shown only if it fails.
quietly() {
  if [[ -t 2 ]]; then
    "$@"
  elif ! "$@" 2>"$demo/stderr.log"; then
    cat "$demo/stderr.log" >&2
    return 1
  fi
}

# -- the model ---------------------------------------------------------------------------------------------------------------

name=
if [[ -z $checkpoint ]]; then
  checkpoint=$demo/$model_name
  name=${model_name/qwen/Qwen}
  name=${name/%b/B}
  if [[ ! -e $checkpoint ]]; then
    echo "writing a checkpoint with the names and shapes of $name"
    quietly "$fsdpinit" synthesize --model "$model_name" "$checkpoint"
  fi
else
  name=$(basename "$checkpoint")
fi

# The values of a key in JSON that has one key a line, as the tool writes it.
values() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" "$2"; }
total() { values "$1" "$2" | awk '{ sum += $1 } END { printf "%.0f\n", sum }'; }
most() { values "$1" "$2" | sort -n | tail -n 1; }

"$fsdpinit" plan "$checkpoint" --shards "$ranks" --policy every-rank-loads --json >"$demo/plan.json"
model=$(values model_bytes "$demo/plan.json")
needed=$(total predicted_peak_bytes "$demo/plan.json")
available=$(($(sed -n 's/^MemAvailable: *\([0-9]*\) kB$/\1/p' /proc/meminfo) * 1024))
if [[ $(cat /sys/fs/cgroup/memory.max 2>/dev/null) =~ ^[0-9]+$ ]]; then  # a container's limit
  limit=$(($(cat /sys/fs/cgroup/memory.max) - $(cat /sys/fs/cgroup/memory.current)))
  available=$((limit < available ? limit : available))
fi
gib() { awk -v bytes="$1" 'BEGIN { printf "%.2f GiB", bytes / 2^30 }'; }

policies=(every-rank-loads cpu-ram-efficient-loading native-sharding+broadcast native-sharding+scatter native-sharding+own-read)
left_out=()
if ((needed > available)) && [[ -z $limit_gib ]]; then
  left_out+=("every-rank-loads: needs $(gib "$needed") for $ranks ranks, $(gib "$available") are free")
  policies=("${policies[@]:1}")
fi

# AdamW's two moments, where there is room for them.
optimizer=(--optimizer)
if [[ -n $limit_gib ]] || ((3 * model > available)); then optimizer=(); fi

"$fsdpinit" inspect "$checkpoint" --json >"$demo/inspect.json"
# All of it into the page cache, right before each load: no policy pays for the disk. Where it does not fit beside the shards
# each reads from the disk.
cache="warm page cache"
if ((2 * model > available)); then cache="from disk"; fi
warm() {
  if [[ $cache == "from disk" ]]; then return; fi
  while IFS= read -r file; do cat -- "$file"; done < <(values path "$demo/inspect.json") >/dev/null
}

# -- the loads ---------------------------------------------------------------------------------------------------------------

# Open MPI asks to be told of more ranks than cores, from 5 on by another name; and of root, who is everybody in a container.
export OMPI_MCA_rmaps_base_oversubscribe=true PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

load() {  # policy[+transport], run
  local transport=scatter
  if [[ $1 == *+* ]]; then transport=${1#*+}; fi
  local command=(mpiexec -n "$ranks" "$fsdpinit" load "$checkpoint" --shards "$ranks" --policy "${1%+*}" --transport "$transport"
    "${optimizer[@]}" --report "$demo/$1.$2.json" --timeline "$demo/$1.$2.csv")
  warm
  if [[ -z $limit_gib ]]; then
    quietly "${command[@]}" >/dev/null
  else
    (ulimit -v $((limit_gib << 20)) && exec "${command[@]}") >/dev/null 2>"$demo/stderr.log"
  fi
}
rm -f "$demo"/{every,native,cpu}-*.{json,csv}
for ((run = 1; run <= runs; ++run)); do
  fitting=()
  echo "run $run of $runs"
  for policy in "${policies[@]}"; do
    if load "$policy" "$run"; then
      fitting+=("$policy")
    elif [[ -n $limit_gib ]] && reason=$(grep -m 1 '^fsdpinit: error: ' "$demo/stderr.log"); then
      left_out+=("$policy: ${reason#fsdpinit: error: }")
    else
      if [[ -n $limit_gib ]]; then cat "$demo/stderr.log" >&2; fi
      exit 1
    fi
  done
  policies=("${fitting[@]}")
done
for policy in "${policies[@]}"; do
  median=$(for ((run = 1; run <= runs; ++run)); do echo "$(values seconds "$demo/$policy.$run.json" | head -n 1) $run"; done |
    sort -g | sed -n "$(((runs + 1) / 2))s/.* //p")
  mv "$demo/$policy.$median.json" "$demo/$policy.json"
  mv "$demo/$policy.$median.csv" "$demo/$policy.csv"
done

# -- table and picture -------------------------------------------------------------------------------------------------------

# The most that a rank has allocated while it was loading, phases before a policy's own report with it.
accounted() { awk -F, 'NR > 1 && $3 != "optimizer" && $3 != "ready" && $5 > most { most = $5 } END { printf "%.0f", most }' "$1"; }
printf '\n%s, %s, on %d ranks%s, %s, median of %d\n\n' "$name" "$(gib "$model")" "$ranks" \
  "${limit_gib:+ of at most $limit_gib GiB}" "$cache" "$runs"
row='%-26s %8s %11s %11s %11s %11s %11s\n'
# shellcheck disable=SC2059
printf "$row" policy seconds accounted RSS 'RSS in all' read moved
for policy in "${policies[@]}"; do
  report=$demo/$policy.json
  # shellcheck disable=SC2059
  printf "$row" "${policy/+/, }" "$(values seconds "$report" | head -n 1 | awk '{ printf "%.2f", $1 }')" \
    "$(gib "$(accounted "$demo/$policy.csv")")" "$(gib "$(most peak_rss_bytes "$report")")" \
    "$(gib "$(total peak_rss_bytes "$report")")" "$(gib "$(total bytes_read "$report")")" "$(gib "$(total bytes_sent "$report")")"
done
echo "accounted, RSS: of the rank that has most"
for each in "${left_out[@]}"; do fold -s -w 100 <<<"does not fit: $each"; done
if ((${#policies[@]} == 0)); then exit 0; fi

gnuplot -e "out='$demo/memory.png'; folder='$demo'; labels='${policies[*]}'; model=$model.0; ranks=$ranks; name='${name//\'/}'; \
  optimizer=${#optimizer[@]}" \
  examples/memory.gnuplot
printf '\neach rank'\''s memory over time, through load%s: %s\n' "${optimizer:+ and optimizer creation}" "$demo/memory.png"
