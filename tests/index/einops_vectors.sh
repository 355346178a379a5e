#!/usr/bin/env bash
# usage: tests/index/einops_vectors.sh
# Writes einops_vectors.txt anew: what einops and numpy make of small tensors, or that they refuse. They are installed into a folder that is
# removed afterwards. vectors_test.cpp compares what the library makes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check einops==0.8.2 numpy==2.4.6
"$scratch/venv/bin/python" "$here/einops_vectors.py" >"$here/einops_vectors.txt"
