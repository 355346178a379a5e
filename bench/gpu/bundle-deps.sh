#!/usr/bin/env bash
# usage: bench/gpu/bundle-deps.sh [FOLDER]
# Collects what the library, its tests and its tool need besides CUDA, NCCL and MPI into FOLDER (build/deps), for a machine without
# package registries: headers, static and shared libraries and CMake packages of the Debian packages installed here, and of Boost
# what Hana includes; and, for run.sh to compare with, the wheel of fastsafetensors for the python3 that is here, if it can be had.
# There: cmake -DFSDPINIT_DEPS_DIR=FOLDER, or bench/gpu/run.sh FOLDER.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=${1:-build/deps}
limit_mib=20
packages=(libmsgsl-dev nlohmann-json3-dev libfmt-dev libcli11-dev libxxhash-dev libgtest-dev libgmock-dev librapidcheck-dev
  libbenchmark-dev)

if ! command -v dpkg-query >/dev/null; then
  echo "bundle-deps.sh: not a Debian system; run it where cmake/packages.sh works" >&2
  exit 1
fi
bash cmake/packages.sh build test
rm -rf "$folder"
mkdir -p "$folder"
folder=$(realpath "$folder")

# Below the prefix as below /usr: CMake packages look for their files from where they are themselves.
take() {
  local file name
  while read -r file; do
    for name in "$file" "$file".*; do  # libraries by all of their names: that of the linker, and those with versions
      if [[ -f $name && ($name == "$file" || $file == *.so) ]]; then
        mkdir -p "$folder/$(dirname "${name#/usr/}")"
        cp -L "$name" "$folder/${name#/usr/}"
      fi
    done
  done
}
dpkg-query -L "${packages[@]}" | { grep -E '^/usr/(include/|share/cmake/|share/[^/]+/cmake/|lib/.*(/cmake/|\.a$|\.so$))' || true; } | take
printf '#include <boost/config.hpp>\n#include <boost/hana.hpp>\n#include <boost/version.hpp>\n' | g++ -std=c++20 -x c++ -M - |
  grep -oE '/usr/include/boost/[^ ]+' | take
find /usr/lib -type f \( -path '*/cmake/Boost*-[0-9]*' -o -path '*/cmake/boost_headers-[0-9]*' \) | take

python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$folder/wheels" fastsafetensors ||
  echo "bundle-deps.sh: without fastsafetensors, which pip does not get" >&2

mib=$(($(du -sk "$folder" | cut -f 1) / 1024))
echo "$folder: $mib MiB"
if ((mib >= limit_mib)); then
  echo "bundle-deps.sh: more than $limit_mib MiB" >&2
  exit 1
fi
