#!/usr/bin/env bash
# usage: docs/check_links.sh HTML_FOLDER
# Every link of the pages that Doxygen made leads to a file that is there, and to an anchor that it has.
set -euo pipefail

cd "$1"
awk '
  FNR == 1 { known[FILENAME] = 1; ++pages }
  {
    rest = $0
    while (match(rest, /(id|name)="[^"]+"/)) {
      at = substr(rest, RSTART, RLENGTH); rest = substr(rest, RSTART + RLENGTH)
      sub(/^[a-z]+="/, "", at); sub(/"$/, "", at)
      anchor[FILENAME "#" at] = 1
    }
    rest = $0
    while (match(rest, /href="[^"]+"/)) {
      at = substr(rest, RSTART + 6, RLENGTH - 7); rest = substr(rest, RSTART + RLENGTH)
      # Doxygen 1.9.4 offers a list of nested classes also where all of them are private.
      if (at !~ /^([a-z]+:|#$)/ && at !~ /#nested-classes$/) links[FILENAME " " (at ~ /^#/ ? FILENAME : "") at] = 1
    }
  }
  END {
    for (each in links) {
      split(each, parts, " ")
      target = parts[2]
      file = target
      sub(/#.*/, "", file)
      is_page = file ~ /\.html$/
      if (is_page && !(file in known)) { print parts[1] ": " target ": there is no such page"; bad = 1 }
      else if (is_page && target ~ /#/ && !(target in anchor)) { print parts[1] ": " target ": there is no such place"; bad = 1 }
      else if (!is_page && (getline line < file) < 0) { print parts[1] ": " target ": there is no such file"; bad = 1 }
      if (!is_page) close(file)
      ++count
    }
    if (!count) { print "no links were found"; bad = 1 }
    else print pages " pages, " count " links"
    exit bad
  }' *.html
