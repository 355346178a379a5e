#!/usr/bin/env bash
# usage: tests/readme/links.sh MARKDOWN...
# Links in README and in the guide lead somewhere: to a file or folder of this repository, where a heading is named to one that the
# page has, under the name that GitHub gives it, and from a name of the library to a header that has it. Addresses of the web are left
# alone.
set -euo pipefail

# The anchors of a page, one a line.
anchors() {
  awk '
    /^ *```/ { code = !code; next }
    !code && /^#+ / {
      sub(/^#+ +/, ""); name = tolower($0); gsub(/[^a-z0-9 _-]/, "", name); gsub(/ /, "-", name)
      print name (seen[name]++ ? "-" seen[name] - 1 : "")
    }' "$1"
}
# "line target name" of each link of a page; the name is that of the library which leads to a header, or `-`.
links() {
  awk '
    /^ *```/ { code = !code; next }
    code { next }
    {
      while (match($0, /\[`[A-Za-z_0-9:]+[^`]*`\]\([^)]+\.(hpp|cuh)\)/)) {
        name = target = substr($0, RSTART, RLENGTH)
        sub(/^.*\]\(/, "", target); sub(/\)$/, "", target)
        sub(/^\[`/, "", name); sub(/[^A-Za-z_0-9:].*$/, "", name); sub(/^.*:/, "", name)
        print FNR, target, name
        $0 = substr($0, 1, RSTART - 1) "x" substr($0, RSTART + RLENGTH)
      }
      gsub(/`[^`]*`/, "x")
      while (match($0, /\]\([^)]+\)/)) { print FNR, substr($0, RSTART + 2, RLENGTH - 3), "-"; $0 = substr($0, RSTART + RLENGTH) }
    }' "$1"
}

status=0
count=0
for page in "$@"; do
  while read -r line target name; do
    if [[ $target =~ ^[a-z]+: ]]; then continue; fi
    count=$((count + 1))
    path=${target%%#*}
    file=$page
    if [[ -n $path ]]; then file=$(dirname "$page")/$path; fi
    if [[ ! -e $file ]]; then
      echo "$page:$line: $target: there is no such file"
      status=1
    elif [[ $target == *#* ]] && ! anchors "$file" | grep -qxF -- "${target#*#}"; then
      echo "$page:$line: $target: the page has no such heading"
      status=1
    elif [[ $name != - ]] && ! grep -qw -- "$name" "$file"; then
      echo "$page:$line: $target: the header does not have $name"
      status=1
    fi
  done < <(links "$page")
done
if ((count == 0)); then
  echo "no links were found"
  status=1
fi
exit "$status"
