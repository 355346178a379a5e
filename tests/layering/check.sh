#!/usr/bin/env bash
# usage: check.sh INCLUDE_DIR [PART=PATTERN[:PATTERN]...]...     (e.g. "text=text.hpp:observe/*text*.hpp")
#
# Checks what the headers under INCLUDE_DIR/fsdpinit include:
#   - a room includes only itself and rooms above it in the list below, never another room's detail/, never an umbrella
#     (a header directly under fsdpinit/); umbrellas themselves may include any room;
#   - a header that matches a part's pattern belongs to it: only headers of the same part, and of one that builds on it, include it,
#     and only they include what belongs to the part's packages (the tables below);
#   - never all of Boost.Hana or of the GSL.
set -euo pipefail

rooms=(core os index plan concepts observe control memory sources communicators modules engine init cost units testing adapters)

declare -A owner=([nlohmann/*]=safetensors [fmt/*]=text [mpi*.h]=mpi [cuda*.h]=cuda [nccl.h]=nccl
  [ATen/*]=torch [c10/*]=torch [torch/*]=torch)
# A part whose headers may include what belongs to another.
declare -A builds_on=([nccl]=cuda)

root=$1
shift

violations=0
violation() {
  echo "$1: $2"
  violations=$((violations + 1))
}

declare -A level
for i in "${!rooms[@]}"; do level[${rooms[i]}]=$i; done

# The optional target a header belongs to; empty for the main one.
declare -A part_cache part_of_pattern
for argument in "$@"; do
  IFS=: read -r -a patterns <<<"${argument#*=}"
  for pattern in "${patterns[@]}"; do part_of_pattern[$pattern]=${argument%%=*}; done
done
part_of() {
  local pattern
  if [[ -z ${part_cache[$1]+known} ]]; then
    part_cache[$1]=
    for pattern in "${!part_of_pattern[@]}"; do
      # shellcheck disable=SC2053  # the right side is a pattern
      if [[ $1 == $pattern ]]; then part_cache[$1]=${part_of_pattern[$pattern]}; fi
    done
  fi
  part=${part_cache[$1]}
}

check_foreign_include() {  # header, its part (empty for the main target), included header
  local pattern
  for pattern in "${!owner[@]}"; do
    # shellcheck disable=SC2053  # the right side is a pattern
    if [[ $3 == $pattern && $2 != "${owner[$pattern]}" && ${builds_on[${2:-none}]:-} != "${owner[$pattern]}" ]]; then
      violation "$1" "includes <$3>, but is not part of fsdpinit::${owner[$pattern]}"
    fi
  done
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
  if [[ -n $part && $part != "$own_part" && ${builds_on[${own_part:-none}]:-} != "$part" ]]; then
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
    check_foreign_include "$header" "$part" "$name"
    case $name in
      boost/hana.hpp | gsl/gsl)
        violation "$header" "includes all of <$name>; include single headers"
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
