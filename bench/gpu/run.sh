#!/usr/bin/env bash
# usage: bench/gpu/run.sh [DEPS_DIR]
# On a machine with a GPU: builds for it, runs the tests that need one, looks for errors with compute-sanitizer, and loads
# checkpoints of 4 and 16 GiB beside the ceiling of the link and the loaders of Python, where they can be imported. Within 9 minutes;
# steps for which there is no time left are named. DEPS_DIR: a folder made by bundle-deps.sh, where there are no package registries.
# Everything that is printed is in bench/gpu/RESULTS.md too, to be committed; without a GPU, which proves nothing, in build/gpu.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
deps=${1:-}
limit_seconds=540
build=build/gpu
mkdir -p "$build"
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1) || true
results=bench/gpu/RESULTS.md
if [[ -z $gpu ]]; then results=$build/RESULTS.md; fi
exec > >(tee "$results") 2>&1

left() { echo $((limit_seconds - SECONDS)); }
# step SECONDS COMMAND...: within the time that is left, if that is at least so much. A step that fails does not end the others.
failed=()
step() {
  local needed=$1
  shift
  if (($(left) < needed)); then
    echo "left out, $(left) s are left: $*"
    return
  fi
  timeout "$(left)" "$@" || failed+=("$*")
}

echo "# fsdpinit on a GPU"
echo
echo "- $(date -u +%F), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
echo "- ${gpu:-no GPU}${gpu:+; GPUs: $(nvidia-smi -L | grep -c '^GPU')}"
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
echo "- nvcc $("$nvcc" --version | sed -n 's/.*release \([^,]*\),.*/\1/p'), $(c++ --version | head -n 1), $(nproc) cores"

if [[ -z $deps ]]; then bash cmake/packages.sh build test >"$build/packages.log"; fi
generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi
FSDPINIT_REQUIRE_CUDA=1 FSDPINIT_REQUIRE_TOOL=1 FSDPINIT_REQUIRE_KERNELS=1 cmake -S . -B "$build" "${generator[@]}" \
  -DCMAKE_BUILD_TYPE=Release -DCMAKE_CUDA_ARCHITECTURES="${FSDPINIT_GPU_ARCHITECTURES:-90}" -DCMAKE_CUDA_COMPILER="$nvcc" \
  -DFSDPINIT_DEPS_DIR="${deps:+$(realpath "$deps")}" >"$build/configure.log" || { tail -n 20 "$build/configure.log"; exit 1; }
targets=(fsdpinit_tool fsdpinit_gpu_ratio fsdpinit_cuda_tests fsdpinit_kernels_tests fsdpinit_gpt_cuda)
if grep -q '^FSDPINIT_WITH_NCCL:BOOL=ON' "$build/CMakeCache.txt" && ! grep -q 'nccl left out' "$build/configure.log"; then
  targets+=(fsdpinit_nccl_tests)
  header=$(sed -n 's/^NCCL_INCLUDE_DIR:PATH=//p' "$build/CMakeCache.txt")/nccl.h
  nccl=$(awk '/^#define NCCL_(MAJOR|MINOR|PATCH) /{printf "%s%s", dot, $3; dot = "."}' "$header")
fi
echo "- NCCL ${nccl:-left out}"
echo
cmake --build "$build" --parallel "$(nproc)" --target "${targets[@]}" >"$build/build.log" || { tail -n 40 "$build/build.log"; exit 1; }
echo "Built in $SECONDS s: ${targets[*]}"

echo
echo "## Tests"
echo
step 10 ctest --test-dir "$build" -L '^gpu$' --output-on-failure

if [[ -z $gpu ]]; then
  echo
  echo "There is no GPU: nothing is checked with compute-sanitizer, and nothing is measured."
  exit $((${#failed[@]} > 0))
fi

echo
echo "## A decoder, on one GPU and on each that there is"
echo
step 20 "$build/examples/fsdpinit_gpt_cuda"
if [[ -n ${nccl:-} ]]; then step 20 "$build/examples/fsdpinit_gpt_cuda" --nccl; fi

echo
echo "## compute-sanitizer"
echo
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [[ -x $sanitizer ]]; then
  for program in fsdpinit_kernels_tests fsdpinit_cuda_tests; do
    # A device on which it does not start says so in the log; that is no error of the library's.
    step 60 bash -c '"$1" --error-exitcode 1 "$2" 2>&1 | tail -n 6' sanitize "$sanitizer" "$build/tests/$program"
  done
else
  echo "compute-sanitizer is not here."
fi

echo
echo "## Loads into GPU memory"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for wheel in "$deps"/wheels/*.whl; do
  if [[ -f $wheel ]]; then python3 -m zipfile -e "$wheel" "$build/python"; fi
done
export PYTHONPATH=$PWD/$build/python${PYTHONPATH:+:$PYTHONPATH}
echo
peers=()
for loader in safetensors fastsafetensors; do
  if why=$(python3 -c "import torch, $loader; assert torch.cuda.is_available(), 'torch finds no GPU'" 2>&1 | tail -n 1); then
    peers+=("$loader")
    python3 -c "from importlib.metadata import version as v; print(f'- $loader {v(\"$loader\")}, torch {v(\"torch\")}')"
  else
    echo "- without $loader: $why"
  fi
done
tool=$(find "$build" -name fsdpinit -type f -perm -u+x | head -n 1)
for layers in 5 32; do  # of Llama 3 8B: 4 and 15 GiB
  echo
  step 60 "$tool" synthesize --model llama3-8b --layers "$layers" "$folder/llama3-8b-$layers"
  others=()
  for loader in "${peers[@]}"; do
    others+=("$loader=exec python3 bench/gpu/load_safetensors.py $loader '$folder/llama3-8b-$layers'")
  done
  step 60 "$build/bench/fsdpinit_gpu_ratio" "$folder/llama3-8b-$layers" 5 $((16 << 20)) 3 "${others[@]}"
done

echo
if ((${#failed[@]})); then printf 'failed: %s\n' "${failed[@]}"; fi
exit $((${#failed[@]} > 0))
