#!/usr/bin/env bash
# usage: launch.sh RANKS PROGRAM [ARGUMENT...]
# Starts PROGRAM once for each rank, as launchers of its kind do: with RANK, WORLD_SIZE, MASTER_ADDR and a free MASTER_PORT. Prints
# what they say, rank by rank; fails if one does.
set -euo pipefail

ranks=$1
shift
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
export WORLD_SIZE=$ranks MASTER_ADDR=127.0.0.1 OMP_NUM_THREADS=1
MASTER_PORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export MASTER_PORT

pids=()
for ((rank = 0; rank < ranks; ++rank)); do
  RANK=$rank timeout --kill-after=1 110 "$@" >"$folder/$rank" 2>&1 &
  pids+=($!)
done
failed=0
for rank in "${!pids[@]}"; do
  code=0
  wait "${pids[rank]}" || code=$?
  if ((code != 0)); then
    failed=1
    echo "rank $rank: exit code $code"
  fi
  cat "$folder/$rank"
done
exit $failed
