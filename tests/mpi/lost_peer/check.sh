#!/usr/bin/env bash
# usage: check.sh PROGRAM RANK kill|stop|exit PHASE abort|throw|stuck MPIEXEC [ARGUMENT...]
# Loses a rank and looks at the others: all gone within the deadline and 5 seconds, exit code not 0, and what they say.
# Arguments after MPIEXEC go to it: one that makes it keep survivors running, for instance.
set -euo pipefail

program=$1 rank=$2 how=$3 phase=$4 action=$5
shift 5
deadline=1
allowed=5

folder=$(mktemp -d)
trap 'pkill -KILL -f -- "$folder/lost_at" || true; rm -rf "$folder"' EXIT
code=0
# Ranks that nobody ends would hold the pipe, and this script, open: into files.
timeout --kill-after=1 40 "$@" -n 4 "$program" "$rank" "$how" "$phase" "$action" "$deadline" "$folder/lost_at" \
  >"$folder/out" 2>"$folder/err" || code=$?
# A launcher may leave before ranks that it does not end: Open MPI 5 does so with the first one that aborts. Who was stopped stays.
living() { pgrep -r D,R,S -f -- "$folder/lost_at"; }
for ((i = 0; i < 10 * allowed; ++i)); do
  living >/dev/null || break
  sleep 0.1
done
now=$(date +%s.%N)

fail() {
  echo "FAILED: $1 (exit code $code)"
  sed 's/^/  stdout: /' "$folder/out"
  sed 's/^/  stderr: /' "$folder/err"
  exit 1
}
[[ -s $folder/lost_at ]] || fail "no rank was lost"
took=$(awk -v from="$(cat "$folder/lost_at")" -v to="$now" 'BEGIN { printf "%.2f", to - from }')
((code != 124)) || fail "the job still ran after 40 s"
# A launcher that keeps survivors running takes losses for granted: 0 whatever becomes of the others.
((code != 0 || $# > 1)) || fail "the job says that all is well"
awk -v took="$took" -v limit=$((deadline + allowed)) 'BEGIN { exit !(took <= limit) }' ||
  fail "gone $took s after the loss, allowed are $deadline s and $allowed s"
if living >"$folder/alive"; then fail "still there: $(tr '\n' ' ' <"$folder/alive")"; fi

# Either the launcher ended the others at once, or they say whom they miss, in one line.
lines=$(grep -c '^fsdpinit: error: ' "$folder/err" || true)
((lines <= 1)) || fail "$lines ranks report the error"
if ((lines == 1)); then
  grep -q "^fsdpinit: error: rank $rank: did not answer within the deadline" "$folder/err" || fail "the wrong error"
  ! grep -q "alarms are gone" "$folder/err" || fail "the library took what is the program's"
  [[ $action != throw ]] || grep -qx 'caught peer_lost' "$folder/out" || fail "not thrown as peer_lost"
elif [[ $how == stop ]]; then
  fail "nobody reports the error"
fi
echo "gone $took s after the loss; $( ((lines)) && grep '^fsdpinit: error: ' "$folder/err" || echo "ended by the launcher")"
