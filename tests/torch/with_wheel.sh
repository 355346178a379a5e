#!/usr/bin/env bash
# usage: tests/torch/with_wheel.sh [VERSION]
# Compiles the tests of libtorch with the wheel of torch of that version, 2.15.0 without, and runs them: once per change of the
# component fsdpinit::torch, next to CI's libtorch of Debian. In a folder that is removed afterwards; the wheel is about 500 MB, unpacked 1.5 GB.
#
# Wheels have no headers of Gloo, which those of c10d ask for but do not depend on in layout: Debian's will do. Wheels for GPUs want
# libraries of CUDA, which are taken from a CUDA Toolkit of the same major version, or the packages that the wheel names.
set -euo pipefail

version=${1:-2.15.0}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash cmake/packages.sh build test torch
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-deps "torch==$version"
torch=$("$folder/venv/bin/python" -c 'import importlib.util; print(importlib.util.find_spec("torch").submodule_search_locations[0])')

# Libraries that the wheel's own need and the system does not have, by the packages that bring them.
needed() { LD_LIBRARY_PATH=$libraries ldd "$torch/lib/libtorch_cpu.so" | awk '/not found/ { print $1 }'; }
libraries=$torch/lib
if [[ -n $(needed) ]]; then
  mapfile -t packages < <("$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import requires
for each in requires("torch"):
    if each.startswith(("nvidia-", "cuda-toolkit", "cuda-bindings")) and "extra ==" not in each:
        print(each.split(";")[0].strip())
PYTHON
  )
  "$folder/venv/bin/pip" install --quiet "${packages[@]}"
  while IFS= read -r directory; do libraries+=:$directory; done < <(find "$folder/venv" -path '*nvidia*' -name '*.so*' -printf '%h\n' | sort -u)
fi
if [[ -n $(needed) ]]; then
  echo "libtorch_cpu.so of torch $version needs what was not found: $(needed | tr '\n' ' ')" >&2
  exit 1
fi

flags=(-std=c++20 -O0 -Wall -Wextra -Werror -Iinclude -Itests -Iexamples -DUSE_C10D_GLOO
       -isystem "$torch/include" -isystem "$torch/include/torch/csrc/api/include")
libs=(-L"$torch/lib" -Wl,-rpath,"$torch/lib" -Wl,--allow-shlib-undefined -ltorch_cpu -lc10 -lgtest -lgtest_main -pthread)
g++ "${flags[@]}" tests/torch/*_test.cpp tests/support/{reference_model,heap_faults}.cpp -o "$folder/tests" "${libs[@]}"
export LD_LIBRARY_PATH=$libraries
processes='Memory.*:Parity.*'
"$folder/tests" --gtest_brief=1 --gtest_filter="-$processes"
bash examples/libtorch_llama/launch.sh 4 "$folder/tests" --gtest_brief=1 --gtest_filter="$processes"
echo "torch $version: all passed"
