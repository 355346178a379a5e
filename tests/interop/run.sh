#!/usr/bin/env bash
# usage: run.sh TOOL SCRATCH
# A checkpoint that Python's safetensors wrote loads, and what the tool dumps of it reads in Python. 77, with the reason, where those
# packages cannot be had, unless FSDPINIT_REQUIRE_PYTHON is set.
set -euo pipefail

tool=$1 scratch=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$scratch/venv/bin/python
if ! { [[ -x $python ]] && "$python" -c 'import numpy, safetensors'; } 2>/dev/null; then
  rm -rf "$scratch"
  mkdir -p "$scratch"
  if ! { python3 -m venv "$scratch/venv" && "$python" -m pip install --quiet --disable-pip-version-check numpy safetensors; } \
    >"$scratch/log" 2>&1; then
    echo "skipped: numpy and safetensors could not be installed: $(tail -n 1 "$scratch/log")"
    if [[ -n ${FSDPINIT_REQUIRE_PYTHON:-} ]]; then exit 1; fi
    exit 77
  fi
fi
rm -rf "$scratch/checkpoint" "$scratch/dump"
"$python" "$here/checkpoint.py" write "$scratch/checkpoint"
"$tool" load "$scratch/checkpoint" --shards 3 --dump "$scratch/dump" >/dev/null
"$python" "$here/checkpoint.py" check "$scratch/dump"
