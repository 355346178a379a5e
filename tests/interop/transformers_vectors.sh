#!/usr/bin/env bash
# usage: tests/interop/transformers_vectors.sh
# Writes vectors/ anew: small checkpoints under the names of published ones, and what transformers makes of them. It is installed into a
# folder that is removed afterwards; torch comes with CUDA's libraries, some gigabytes. sources/transformers_maps_test.cpp compares
# what the library's published rules make.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
  transformers==5.24.0 torch==2.15.0 safetensors==0.8.0 numpy==2.4.6
HF_HUB_OFFLINE=1 "$scratch/venv/bin/python" "$here/transformers_vectors.py" "$here/vectors"
