#!/usr/bin/env bash
# usage: bench/compile_cost.sh REV
# What one call of initialize() costs the compiler, at REV and in the working tree: instructions of g++ -O2 for
# examples/custom_framework.cpp, header-only; for the same with one further combination of arguments; and, where there is
# fsdpinit::compiled, for the file that links it. Bytes of an object file that has four combinations. Counted by valgrind, so that
# the machine and what else it does make no difference; some ten minutes.
set -euo pipefail

if (($# != 1)); then sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
commit=$(git rev-parse --verify --quiet "$1^{commit}") || { echo "compile_cost.sh: git knows no revision '$1'" >&2; exit 2; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/old"
git archive "$commit" include | tar -x -C "$scratch/old"

# The example, and calls of initialize() that differ from its own in the observer and the source.
cp examples/custom_framework.cpp "$scratch/0.cpp"
for more in 1 3; do
  {
    cat examples/custom_framework.cpp
    for ((i = 0; i < more; ++i)); do
      cat <<CALL
struct observer_$i { void phase(const char*) {} void progress(std::uint64_t, std::uint64_t) {} };
struct source_$i : fsdpinit::in_memory_source { using in_memory_source::in_memory_source; };
fsdpinit::rank_report load_$i(mine::module& model, source_$i& source, my_communicator& ranks) {
  return fsdpinit::initialize(model, source, ranks, {}, fsdpinit::host_memory{}, observer_$i{});
}
CALL
    done
  } >"$scratch/$more.cpp"
done

millions() {  # INCLUDE FILE [FLAG...]
  valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null --trace-children=yes \
    g++ -std=c++20 -O2 -I "$1" "${@:3}" -S -o /dev/null "$scratch/$2.cpp" 2>&1 |
    awk '/I +refs:/ { gsub(",", ""); sum += $NF } END { printf "%.0f", sum / 1e6 }'
}
code() {  # INCLUDE FILE
  g++ -std=c++20 -O2 -I "$1" -c -o "$scratch/out.o" "$scratch/$2.cpp"
  size "$scratch/out.o" | awk 'NR == 2 { print $1 }'
}
row() { printf '%-42s %10s %10s %7s\n' "$@"; }
compare() { row "$1" "$2" "$3" "$(awk -v a="$2" -v b="$3" 'BEGIN { printf "%.2f", b / a }')"; }

old=$scratch/old/include new=include
row "" "$(git rev-parse --short "$commit")" "here" ratio
old_one=$(millions "$old" 0)
new_one=$(millions "$new" 0)
compare "header-only, million instructions" "$old_one" "$new_one"
compare "a further combination" $(($(millions "$old" 1) - old_one)) $(($(millions "$new" 1) - new_one))
compare "with fsdpinit::compiled" "$old_one" "$(millions "$new" 0 -DFSDPINIT_COMPILED)"
compare "bytes of code, four combinations" "$(code "$old" 3)" "$(code "$new" 3)"
