#!/usr/bin/env bash
# usage: docs/phrases.sh [FILE...]
# Prints where README and the guide, or the given files, have a turn of phrase of phrases.txt, and what to write instead. Code blocks
# and text in backticks do not count. Advice, not a test: the exit code is 0.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if (($# == 0)); then set -- README.md docs/guide/*.md; fi
while IFS=$'\t' read -r phrase better; do
  if [[ -z $phrase || $phrase == \#* ]]; then continue; fi
  for file in "$@"; do
    # Lines keep their numbers.
    awk '/^ *```/ { code = !code; print ""; next } code { print ""; next } { gsub(/`[^`]*`/, "``"); print }' "$file" |
      { grep -noE -- "$phrase" || true; } |
      while IFS= read -r found; do printf '%s:%s -> %s\n' "$file" "$found" "$better"; done
  done
done <docs/phrases.txt
