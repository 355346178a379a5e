#!/usr/bin/env bash
# usage: check.sh INCLUDE_DIR [SAFETENSORS_PATTERNS [TEXT_PATTERNS]]     (patterns separated by ':')
#
# Checks what the headers under INCLUDE_DIR/fsdpinit include:
#   - a room includes only itself and rooms above it in the list below, never another room's detail/, never an umbrella
#     (a header directly under fsdpinit/); umbrellas themselves may include any room;
#   - nlohmann/ only in headers matching SAFETENSORS_PATTERNS, fmt/ only in those matching TEXT_PATTERNS, and no other header
#     includes one of these;
#   - never all of Boost.Hana or of the GSL.
set -euo pipefail

rooms=(core plan concepts observe control memory sources communicators modules init units testing adapters)

root=$1
IFS=: read -r -a safetensors_patterns <<<"${2:-}"
IFS=: read -r -a text_patterns <<<"${3:-}"

violations=0
violation() {
  echo "$1: $2"
  violations=$((violations + 1))
}

declare -A level
for i in "${!rooms[@]}"; do level[${rooms[i]}]=$i; done

# The optional target a header belongs to; empty for the main one.
declare -A part_cache
part_of() {
  if [[ -z ${part_cache[$1]+known} ]]; then
    part_cache[$1]=
    for pattern in "${safetensors_patterns[@]}"; do
      # shellcheck disable=SC2053  # the right side is a pattern
      if [[ $1 == $pattern ]]; then part_cache[$1]=safetensors; fi
    done
    for pattern in "${text_patterns[@]}"; do
      # shellcheck disable=SC2053
      if [[ $1 == $pattern ]]; then part_cache[$1]=text; fi
    done
  fi
  part=${part_cache[$1]}
}

# A path below fsdpinit/ without its '.' and '..'.
normalise() {
  local IFS=/ piece
  local -a kept=()
  for piece in $1; do
    case $piece in
      '' | .) ;;
      ..) if ((${#kept[@]})); then unset 'kept[-1]'; fi ;;
      *) kept+=("$piece") ;;
    esac
  done
  normalised="${kept[*]}"
}

check_own_include() {  # header, its room (empty for an umbrella), included header
  local header=$1 room=$2 target=$3 target_room=
  if [[ $target == */* ]]; then target_room=${target%%/*}; fi

  part_of "$header"
  local own_part=$part
  part_of "$target"
  if [[ -n $part && $part != "$own_part" ]]; then
    violation "$header" "includes fsdpinit/$target, which only fsdpinit::$part provides"
  fi

  if [[ -z $room ]]; then return 0; fi
  if [[ -z $target_room ]]; then
    violation "$header" "includes the umbrella fsdpinit/$target; include the header that is needed"
  elif [[ -z ${level[$target_room]+known} ]]; then
    violation "$header" "includes fsdpinit/$target, which is in no known room"
  elif ((level[$target_room] > level[$room])); then
    violation "$header" "room '$room' includes fsdpinit/$target from room '$target_room' below it"
  elif [[ $target_room != "$room" && $target == */detail/* ]]; then
    violation "$header" "includes fsdpinit/$target, the internals of another room"
  fi
}

count=0
while IFS= read -r -d '' path; do
  count=$((count + 1))
  header=${path#"$root/fsdpinit/"}
  room=
  if [[ $header == */* ]]; then
    room=${header%%/*}
    if [[ -z ${level[$room]+known} ]]; then
      violation "$header" "'$room' is not a known room"
      continue
    fi
  fi
  while IFS= read -r line; do
    [[ $line =~ ^[[:space:]]*#[[:space:]]*include[[:space:]]*([\<\"])([^\>\"]+) ]] || continue
    quote=${BASH_REMATCH[1]} name=${BASH_REMATCH[2]}
    part_of "$header"
    case $name in
      boost/hana.hpp | gsl/gsl)
        violation "$header" "includes all of <$name>; include single headers"
        ;;
      nlohmann/*)
        if [[ $part != safetensors ]]; then violation "$header" "includes <$name>, but is not part of fsdpinit::safetensors"; fi
        ;;
      fmt/*)
        if [[ $part != text ]]; then violation "$header" "includes <$name>, but is not part of fsdpinit::text"; fi
        ;;
      fsdpinit/*)
        normalise "${name#fsdpinit/}"
        check_own_include "$header" "$room" "$normalised"
        ;;
      *)
        if [[ $quote == '"' ]]; then
          directory=
          if [[ $header == */* ]]; then directory=${header%/*}; fi
          normalise "$directory/$name"
          check_own_include "$header" "$room" "$normalised"
        fi
        ;;
    esac
  done < <(grep -E '^[[:space:]]*#[[:space:]]*include' "$path" || true)
done < <(find "$root/fsdpinit" -name '*.hpp' -print0 | sort -z)

if ((count == 0)); then
  echo "$root/fsdpinit: no headers found"
  exit 1
fi
echo "$count headers, $violations violations"
exit $((violations > 0))
