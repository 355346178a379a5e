#!/usr/bin/env bash
# usage: if_gpu.sh COMMAND...
# Runs it where there is a GPU; else says so and ends with 77.
set -euo pipefail

if ! nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
  echo "skipped: no GPU (nvidia-smi lists none)"
  exit 77
fi
exec "$@"
