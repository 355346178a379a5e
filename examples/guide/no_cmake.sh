#!/usr/bin/env bash
# usage: examples/guide/no_cmake.sh
# Builds and runs a program with nothing but a compiler, CXX or else g++: header-only, then with the engine compiled apart.
set -euo pipefail

source=$(realpath -- "$(dirname "${BASH_SOURCE[0]}")/../..")
CXX=${CXX:-g++}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cp "$source/examples/guide/fewer_ranks.cpp" app.cpp

# [compile]
$CXX -std=c++20 -I "$source/include" app.cpp -pthread -o app
# [compile]
./app

# [compiled]
$CXX -std=c++20 -I "$source/include" -DFSDPINIT_COMPILED -c "$source/include/fsdpinit/compiled.cpp" -o engine.o
$CXX -std=c++20 -I "$source/include" -DFSDPINIT_COMPILED app.cpp engine.o -pthread -o app
# [compiled]
./app
