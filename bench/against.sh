#!/usr/bin/env bash
# usage: bench/against.sh REV [--pairs N] [--ways LIST] [--megabytes N] [--ranks N] [--limit RATIO]
# Do loads take longer than at another revision? Builds the tool of REV and of the working tree, each in a folder of its own under
# build/against, and lets them load the same checkpoint in pairs that alternate (31). Per way to load: medians of both, and the median
# of the pairs' ratios, new / old, of seconds and of CPU seconds, with what it is at least and at most with 95 % confidence. Some 15
# minutes on two cores.
#
# LIST: some of {threads,mpi}-{scatter,broadcast,own-read,automatic,every-rank-loads}; all by default. What REV cannot do is left out,
# and named. The checkpoint: Qwen3-0.6B, as many layers as fit into N megabytes (500; the embedding alone has 311), on N ranks (2).
# With --limit the script fails where a ratio may be above. Results, as printed: build/bench/against.txt; all samples: against.json.
set -euo pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }
revision=
megabytes=500
arguments=()
while (($#)); do
  case $1 in
    --pairs | --ways | --megabytes | --ranks | --limit)
      if (($# < 2)); then echo "against.sh: $1 needs a value" >&2; exit 2; fi
      if [[ $1 == --megabytes ]]; then megabytes=$2; else arguments+=("$1" "$2"); fi
      shift 2
      ;;
    -h | --help) usage; exit 0 ;;
    -*) echo "against.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    *)
      if [[ -n $revision ]]; then echo "against.sh: one revision, not '$revision' and '$1'" >&2; exit 2; fi
      revision=$1
      shift
      ;;
  esac
done
if [[ -z $revision ]]; then usage >&2; exit 2; fi
if [[ ! $megabytes =~ ^[1-9][0-9]{2,4}$ ]]; then echo "against.sh: '$megabytes' is no number of megabytes from 100" >&2; exit 2; fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
commit=$(git rev-parse --verify --quiet "$revision^{commit}") || {
  echo "against.sh: git knows no revision '$revision'" >&2
  exit 2
}

# Both in the same way, whatever presets either of them has.
build_tool() {  # SOURCE FOLDER
  FSDPINIT_REQUIRE_TOOL=1 FSDPINIT_REQUIRE_MPI=1 cmake -S "$1" -B "$2" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DFSDPINIT_BUILD_TESTS=OFF -DFSDPINIT_BUILD_BENCH=OFF -DFSDPINIT_BUILD_DOCS=OFF >/dev/null
  cmake --build "$2" --parallel "$(nproc)" --target fsdpinit_tool -- --quiet
}
bash cmake/packages.sh build mpi
old=build/against/$commit
if [[ ! -e $old/source ]]; then
  mkdir -p "$old/unpacked"
  git archive "$commit" | tar -x -C "$old/unpacked"
  mv "$old/unpacked" "$old/source"
fi
build_tool "$old/source" "$old/build"
build_tool . build/against/working/build

layers=$(((megabytes - 311) * 1000 / 31464))  # of 31.464 MB each
((layers = layers < 1 ? 1 : layers > 28 ? 28 : layers))
checkpoint=build/against/qwen3-0.6b-$layers
if [[ ! -e $checkpoint ]]; then
  build/against/working/build/fsdpinit synthesize --model qwen3-0.6b --layers "$layers" "$checkpoint" >/dev/null
fi

mkdir -p build/bench
python3 bench/against.py --self-test
echo "old: $(git log -1 --format='%h %s' "$commit")"
echo "new: the working tree, $(git log -1 --format='%h %s')$(git diff --quiet HEAD || echo ', and what is not committed')"
python3 bench/against.py --old "$old/build/fsdpinit" --new build/against/working/build/fsdpinit --checkpoint "$checkpoint" \
  --samples build/bench/against.json "${arguments[@]}" | tee build/bench/against.txt
