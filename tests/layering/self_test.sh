#!/usr/bin/env bash
# Shows that check.sh accepts what is allowed and names each kind of violation.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0

# expect TEXT HEADER INCLUDE-LINE...: check.sh's output over a tree with this one header among allowed ones contains TEXT;
# TEXT '0 violations' means that it passes.
expect() {
  local text=$1 header=$2 output status=0
  shift 2
  rm -rf "$scratch/fsdpinit"
  mkdir -p "$scratch/fsdpinit"/{core/detail,index,plan,sources} "$scratch/fsdpinit/$(dirname "$header")"
  printf '#pragma once\n#include <vector>\n' >"$scratch/fsdpinit/core/error.hpp"
  printf '#include <fsdpinit/core/error.hpp>\n#include <gsl/assert>\n' >"$scratch/fsdpinit/index/mesh.hpp"
  printf '#include "fsdpinit/index/mesh.hpp"\n' >"$scratch/fsdpinit/core.hpp"
  printf '%s\n' "$@" >"$scratch/fsdpinit/$header"
  output=$(bash "$here/check.sh" "$scratch" "safetensors=sources/safetensors*.hpp:observe/*json*.hpp" "text=observe/*text*.hpp" \
    "mpi=mpi.hpp:communicators/mpi*.hpp") || status=$?
  if [[ $text == "0 violations" ]]; then
    if ((status == 0)) && [[ $output == *", 0 violations" ]]; then return; fi
  elif ((status == 1)) && [[ $output == *"$header: "*"$text"* ]]; then
    return
  fi
  echo "self test: $header with [$*]: expected '$text', got status $status and: $output"
  failures=$((failures + 1))
}

expect "0 violations" plan/ok.hpp '#include "fsdpinit/core/error.hpp"' '#include "fsdpinit/index/mesh.hpp"' '#include "prediction.hpp"'
expect "0 violations" init/ok.hpp '#include <fsdpinit/sources/memory.hpp>' '#include <boost/hana/tuple.hpp>'
expect "0 violations" fsdpinit.hpp '#include <fsdpinit/init/initialize.hpp>' '#include <fsdpinit/core.hpp>'
expect "0 violations" sources/safetensors_file.hpp '#include <nlohmann/json.hpp>' '#include "safetensors_header.hpp"'
expect "0 violations" observe/report_text.hpp '#include <fmt/format.h>'
expect "0 violations" communicators/mpi.hpp '#include <mpi.h>' '#include <fsdpinit/communicators/mpi_error.hpp>'
expect "0 violations" mpi.hpp '#include <fsdpinit/communicators/mpi.hpp>' '#include <fsdpinit/core.hpp>'
expect "0 violations" core/detail/bits.hpp '#include "fsdpinit/core/detail/more.hpp"'
expect "0 violations" core/comment.hpp '// #include "fsdpinit/index/mesh.hpp"'

expect "room 'core' includes fsdpinit/index/mesh.hpp from room 'index' below it" core/up.hpp '#include "fsdpinit/index/mesh.hpp"'
expect "room 'core' includes fsdpinit/index/mesh.hpp" core/angled.hpp '  #  include <fsdpinit/index/mesh.hpp>  // [why'
expect "room 'core' includes fsdpinit/index/mesh.hpp" core/relative.hpp '#include "../index/mesh.hpp"'
expect "from room 'init' below it" communicators/threads.hpp '#include "fsdpinit/init/initialize.hpp"'
expect "the internals of another room" plan/peek.hpp '#include "fsdpinit/core/detail/bits.hpp"'
expect "includes the umbrella" plan/umbrella.hpp '#include "fsdpinit/core.hpp"'
expect "in no known room" plan/strange.hpp '#include "fsdpinit/cellar/x.hpp"'
expect "is not a known room" cellar/x.hpp '#include <vector>'
expect "not part of fsdpinit::safetensors" sources/other.hpp '#include <nlohmann/json.hpp>'
expect "not part of fsdpinit::text" observe/report.hpp '#include <fmt/format.h>'
expect "not part of fsdpinit::mpi" communicators/threads.hpp '#include <mpi.h>'
expect "not part of fsdpinit::mpi" observe/report_text.hpp '#include <mpi.h>'
expect "which only fsdpinit::mpi provides" observe/report_text.hpp '#include "fsdpinit/communicators/mpi.hpp"'
expect "which only fsdpinit::mpi provides" fsdpinit.hpp '#include <fsdpinit/communicators/mpi.hpp>'
expect "which only fsdpinit::safetensors provides" fsdpinit.hpp '#include "fsdpinit/sources/safetensors.hpp"'
expect "includes all of <boost/hana.hpp>" modules/struct.hpp '#include <boost/hana.hpp>'
expect "includes all of <gsl/gsl>" core/gsl.hpp '#include <gsl/gsl>'

mkdir -p "$scratch/empty/fsdpinit"
if bash "$here/check.sh" "$scratch/empty" >/dev/null; then
  echo "self test: a tree without headers passes"
  failures=$((failures + 1))
fi
exit $((failures > 0))
