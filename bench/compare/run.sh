#!/usr/bin/env bash
# usage: bench/compare/run.sh [--models LIST] [--contenders LIST] [--ranks N] [--rounds N] [--python PYTHON]
# Loads the same checkpoints with fsdpinit and with PyTorch, accelerate and safetensors, in turn, 4 processes each, on the CPU:
# seconds and memory, beside what reading and copying cost at least. Shards are compared byte for byte first. Table, chart and
# all samples: build/compare/{table.md,compare.json,*.png}.
#
# Models are written once, with made-up values: qwen3-0.6b (1.2 GB) and llama3-8b:4, its first 4 layers (3.8 GB), by default.
# PYTHON is one that has torch 2.8 or newer, accelerate and safetensors; without it they are installed from the package index
# into build/compare/venv (3 GB to download, 6 GB on disk). Where that cannot be, there is a notice and nothing is measured.
set -euo pipefail

models=qwen3-0.6b,llama3-8b:4
contenders=
ranks=4
rounds=7
python=
usage() {
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}
while (($#)); do
  case $1 in
    --models | --contenders | --ranks | --rounds | --python)
      if (($# < 2)); then echo "run.sh: $1 needs a value" >&2; exit 2; fi
      case $1 in
        --models) models=$2 ;;
        --contenders) contenders=$2 ;;
        --ranks) ranks=$2 ;;
        --rounds) rounds=$2 ;;
        --python) python=$(realpath -ms -- "$(command -v -- "$2" || echo "$2")") ;;
      esac
      shift 2
      ;;
    -h | --help) usage; exit 0 ;;
    *) echo "run.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done
for number in "$ranks" "$rounds"; do
  if [[ ! $number =~ ^[1-9][0-9]{0,2}$ ]]; then echo "run.sh: '$number' is no number of ranks or rounds" >&2; exit 2; fi
done

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=build/compare
mkdir -p "$out"

# -- the peers ---------------------------------------------------------------------------------------------------------------

nothing_measured() { echo "run.sh: $1; nothing is measured"; exit 0; }

if [[ -z $python ]]; then
  venv=$out/venv
  python=$venv/bin/python
  if [[ ! -e $venv/complete ]]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || nothing_measured "no python3 with venv (Debian's package: python3-venv)"
    echo "installing torch, accelerate and safetensors into $venv (some minutes)"
    rm -rf "$venv"
    python3 -m venv "$venv"
    # With an index that offers it, torch's build without CUDA would do.
    if ! "$python" -m pip install --no-cache-dir 'torch>=2.8' 'accelerate>=1.7' 'safetensors>=0.5' >"$out/pip.log" 2>&1; then
      tail -n 3 "$out/pip.log" >&2
      nothing_measured "the packages could not be installed (see $out/pip.log)"
    fi
    touch "$venv/complete"
  fi
fi

# -- the tool, the floors, the models ----------------------------------------------------------------------------------------

bash cmake/packages.sh build mpi test demo
cmake --preset release >/dev/null
cmake --build --preset release --parallel "$(nproc)" --target fsdpinit_tool fsdpinit_floor -- --quiet

folders=()
for model in ${models//,/ }; do
  folder=$out/${model/:/-}
  if [[ ! -e $folder ]]; then
    layers=()
    if [[ $model == *:* ]]; then layers=(--layers "${model#*:}"); fi
    build/release/fsdpinit synthesize --model "${model%%:*}" "${layers[@]}" "$folder"
  fi
  folders+=(--model "${model/:/-}=$folder")
done

# -- the comparison ----------------------------------------------------------------------------------------------------------

PYTHONDONTWRITEBYTECODE=1 "$python" bench/compare/compare.py --out "$out" \
  --tool build/release/fsdpinit --floor build/release/bench/fsdpinit_floor --ranks "$ranks" \
  --rounds "$rounds" --contenders "$contenders" "${folders[@]}"

for model in ${models//,/ }; do
  name=${model/:/-}
  gnuplot -e "out='$out/$name.png'; data='$out/$name.dat'; name='$name'; ranks=$ranks; rounds=$rounds" bench/compare/chart.gnuplot
  echo "chart: $out/$name.png"
done
echo "all samples: $out/compare.json"
