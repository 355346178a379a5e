#!/usr/bin/env bash
# usage: packages.sh GROUP...     (build, mpi, torch, test, demo, docs, lint)
# Installs what the groups need on Debian 12 or Ubuntu 24.04. Returns at once when everything is there.
set -euo pipefail

declare -A group=(
  [build]="g++ cmake ninja-build ccache libboost-dev libmsgsl-dev nlohmann-json3-dev libfmt-dev libcli11-dev libxxhash-dev"
  [mpi]="libopenmpi-dev openmpi-bin"
  [torch]="libtorch-dev libgloo-dev"
  [test]="libgtest-dev librapidcheck-dev libbenchmark-dev python3-jsonschema python3-venv pkgconf valgrind"
  [demo]="gnuplot-nox fonts-dejavu-core"
  [docs]="doxygen"
  [lint]="clang-16 libclang-rt-16-dev clang-tidy-16 clang-format-16"
)

wanted=()
for name in "$@"; do
  if [[ -z ${group[$name]+known} ]]; then
    echo "packages.sh: unknown group '$name'; use build, mpi, torch, test, demo, docs, lint" >&2
    exit 2
  fi
  read -r -a members <<<"${group[$name]}"
  wanted+=("${members[@]}")
done

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "packages.sh: not a Debian system; going on with what is installed (needed: ${wanted[*]})" >&2
  exit 0
fi

missing=()
for package in "${wanted[@]}"; do
  if [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) != installed ]]; then
    missing+=("$package")
  fi
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "packages.sh: neither root nor sudo; have these packages installed: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "installing with apt-get: ${missing[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
