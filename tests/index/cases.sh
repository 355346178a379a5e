#!/usr/bin/env bash
# usage: tests/index/cases.sh [CASES] [SEED]
# Random recipes, and loads of random models of which tensors are made by recipes, whatever the mesh, policy, transport, bucket, memory and
# cast: CASES of each property (30000: of loads, one in three has conversions) instead of the few that CI runs. Uses the release build.
# SEED repeats what failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export FSDPINIT_CASES=${1:-30000}
if (($# > 1)); then export FSDPINIT_TEST_SEED=$2; fi
cmake --preset release >/dev/null
cmake --build --preset release --target fsdpinit_index_tests fsdpinit_init_tests -- --quiet
build/release/tests/fsdpinit_index_tests --gtest_filter='RandomRecipes.*' --gtest_brief=1
build/release/tests/fsdpinit_init_tests --gtest_filter='Properties.*' --gtest_brief=1
