#!/usr/bin/env bash
# usage: run.sh TEST SCRATCH CMAKE [CMAKE ARGUMENT...]
# One test, a function below, of the library as others use it. `installs` and `core_installs_without_parts` leave the prefixes in
# SCRATCH that others need; all else a test writes is in SCRATCH/TEST.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$(cd "$here/../.." && pwd)
test=$1 scratch=$2 cmake=$3
arguments=("${@:4}")
work=$scratch/$test
log=$work/log
prefix=$scratch/prefix
core_prefix=$scratch/core-prefix
alone=(--preset package)
nothing_optional=(-DCMAKE_DISABLE_FIND_PACKAGE_{nlohmann_json,fmt,xxHash,MPI,CUDAToolkit,NCCL,Torch}=ON)

python_required=${FSDPINIT_REQUIRE_PYTHON:-}
unset DESTDIR "${!FSDPINIT_REQUIRE_@}"
rm -rf "$work"
mkdir -p "$work"

fail() {
  echo "$test: $1"
  exit 1
}

# Runs a command; its output is shown only if it fails.
quietly() {
  "$@" >"$log" 2>&1 || { cat "$log"; fail "failed: $*"; }
}
configure() {  # folder of the project, cmake arguments
  quietly "$cmake" -S "$1" -B "$work/build" "${arguments[@]}" "${@:2}"
}
refuse() {  # what the error must say, folder of the project, cmake arguments
  if "$cmake" -S "$2" -B "$work/build" "${arguments[@]}" "${@:3}" >"$log" 2>&1; then fail "was accepted: ${*:2}"; fi
  expect "$1"
}
expect() {  # a text in the last output, however that is broken into lines
  if [[ $(tr -s '[:space:]' ' ' <"$log") != *"$1"* ]]; then cat "$log"; fail "expected: $1"; fi
}
build_and_run() {  # what the program must print
  quietly "$cmake" --build "$work/build" --target app
  local program
  program=$(find "$work/build" -name app -type f)
  quietly "$program"
  expect "$1"
}
app_prints="header of 2 bytes"
version() {  # of the library, as its header has it
  sed -nE 's/^#define FSDPINIT_VERSION_(MAJOR|MINOR|PATCH) //p' "$source/include/fsdpinit/core/version.hpp" | paste -sd.
}

# -- installed ---------------------------------------------------------------------------------------------------------------

installs() {
  configure "$source" "${alone[@]}"
  rm -rf "$prefix"
  quietly "$cmake" --install "$work/build" --prefix "$prefix"
}

found_twice_in_a_project() {
  configure "$here/find_package" -Dfsdpinit_ROOT="$prefix"
  build_and_run "$app_prints"
}

moved_prefix_is_found() {
  quietly "$cmake" --install "$scratch/installs/build" --prefix "$work/first"
  mv "$work/first" "$work/second"
  configure "$here/find_package" -Dfsdpinit_ROOT="$work/second"
  build_and_run "$app_prints"
}

nothing_names_this_machine() {
  # The generated files say "${_IMPORT_PREFIX}/..."; no path in quotes or in a list may begin at the root.
  if grep -rnF -e "$source" -e "$scratch" "$prefix" || grep -rnE '[";]/[a-z]' "$prefix/share/cmake" || grep -rn '[ I]/[a-z]' "$prefix/share/pkgconfig"; then
    fail "installed files name folders of the machine that built them"
  fi
}

pkg_config_compiles_a_program() {
  cp -r "$prefix" "$work/moved"
  export PKG_CONFIG_PATH=$work/moved/share/pkgconfig
  local flags
  read -r -a flags < <(pkg-config --cflags --libs fsdpinit-safetensors)
  quietly g++ -std=c++20 -Wall -Werror "$here/app.cpp" "${flags[@]}" -o "$work/app"
  quietly "$work/app"
  expect "$app_prints"
  quietly pkg-config --modversion fsdpinit fsdpinit-text fsdpinit-xxh3
  if [[ $(uniq "$log") != "$(version)" ]]; then cat "$log"; fail "expected $(version)"; fi
}

# Without a remote: what the library needs is the system's.
conan_package_is_found() {
  if ! { python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "conan>=2,<3"; } >"$log" 2>&1; then
    echo "skipped: conan could not be installed: $(tail -n 1 "$log")"
    exit $((${#python_required} ? 1 : 77))
  fi
  local conan=$work/venv/bin/conan
  export CONAN_HOME=$work/home
  quietly "$conan" profile detect --name system
  printf '%s\n' >>"$CONAN_HOME/profiles/system" '[platform_requires]' boost/1.74 ms-gsl/4.0 nlohmann_json/3.11 fmt/9.1 xxhash/0.8
  local how=(--profile:all system --no-remote --settings compiler.cppstd=20)
  cd "$work"  # conan writes presets where it finds a CMakeLists.txt
  quietly "$conan" create "$source" "${how[@]}"
  quietly "$conan" install --requires "fsdpinit/$(version)" "${how[@]}" -g CMakeDeps -g CMakeToolchain --output-folder "$work/needs"
  rm -rf "$work/venv"
  configure "$here/find_package" -DCMAKE_TOOLCHAIN_FILE="$work/needs/conan_toolchain.cmake"
  build_and_run "$app_prints"
}

mpi_is_its_c_interface_without_warnings() {
  configure "$here/mpi" -Dfsdpinit_ROOT="$prefix"
  build_and_run "MPI answers: 1"
}

# -- asked for -----------------------------------------------------------------------------------------------------------------

other_versions_are_refused() {
  local major minor version
  IFS=. read -r major minor _ < <(version)
  configure "$here/ask" -Dfsdpinit_ROOT="$prefix" "-DASK=$major.$minor;REQUIRED;COMPONENTS;core"
  for version in $major.$((minor - 1)) $major.$((minor + 1)) $((major + 1)).0; do
    refuse "requested version \"$version\"" "$here/ask" -Dfsdpinit_ROOT="$prefix" "-DASK=$version;REQUIRED;COMPONENTS;core" \
      -Ufsdpinit_DIR
  done
}

without_components_all_that_is_there() {
  configure "$here/ask" -Dfsdpinit_ROOT="$prefix" "-DASK=REQUIRED" -DCMAKE_DISABLE_FIND_PACKAGE_{nlohmann_json,MPI,CUDAToolkit}=ON
  expect "targets: fsdpinit text xxh3."
}

unknown_component_is_named() {
  refuse "fsdpinit has no component 'texts'; it has core, safetensors, text, xxh3, mpi, cuda, nccl, torch" "$here/ask" -Dfsdpinit_ROOT="$prefix" \
    "-DASK=REQUIRED;COMPONENTS;core;texts"
}

absent_component_is_named() {
  refuse "fsdpinit was installed without its component 'mpi'; configure fsdpinit with FSDPINIT_REQUIRE_MPI=1" "$here/ask" \
    -Dfsdpinit_ROOT="$core_prefix" "-DASK=REQUIRED;COMPONENTS;core;mpi"
}

missing_package_is_named() {
  refuse "The component 'safetensors' of fsdpinit needs nlohmann_json 3.11, which was not found; install it" "$here/ask" \
    -Dfsdpinit_ROOT="$prefix" "-DASK=REQUIRED;COMPONENTS;safetensors" -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON
}

missing_package_of_core_is_named() {
  refuse "The component 'core' of fsdpinit needs Microsoft.GSL 4.0, which was not found; install it" "$here/ask" \
    -Dfsdpinit_ROOT="$prefix" "-DASK=REQUIRED" -DCMAKE_DISABLE_FIND_PACKAGE_Microsoft.GSL=ON
}

optional_component_may_be_absent() {
  configure "$here/ask" -Dfsdpinit_ROOT="$core_prefix" "-DASK=REQUIRED;COMPONENTS;core;OPTIONAL_COMPONENTS;mpi"
  expect "targets: fsdpinit."
  expect "mpi found: FALSE."
}

# -- nothing optional ------------------------------------------------------------------------------------------------------------

core_installs_without_parts() {
  configure "$source" "${alone[@]}" "${nothing_optional[@]}"
  expect "fsdpinit: safetensors left out: nlohmann_json 3.11 was not found"
  expect "fsdpinit: text left out: fmt 9 was not found"
  expect "fsdpinit: xxh3 left out: xxHash 0.8 was not found"
  expect "fsdpinit: mpi left out: MPI was not found"
  expect "fsdpinit: cuda left out: CUDAToolkit 12 was not found"
  expect "fsdpinit: nccl left out: NCCL 2.18 was not found"
  rm -rf "$core_prefix"
  quietly "$cmake" --install "$work/build" --prefix "$core_prefix"
}

core_alone_is_enough() {
  configure "$here/core" -Dfsdpinit_ROOT="$core_prefix" "${nothing_optional[@]}"
  build_and_run "6 over 4: the last from 6"
}

compiled_and_header_only_parts_are_one_program() {
  configure "$here/compiled" -Dfsdpinit_ROOT="$core_prefix" "${nothing_optional[@]}"
  build_and_run "header-only: 24 bytes, compiled: 24 bytes"
}

headers_of_absent_parts_stay_away() {
  if [[ ! -f $core_prefix/include/fsdpinit/fsdpinit.hpp ]]; then fail "nothing was installed"; fi
  if grep -rnE '# *include [<"](nlohmann/|fmt/|xxhash|mpi\.h|cuda_|nccl\.h)' "$core_prefix/include"; then fail "headers of parts are installed"; fi
  if [[ -e $core_prefix/include/fsdpinit/sources/safetensors.hpp ]]; then fail "safetensors.hpp is installed"; fi
}

own_tests_of_absent_parts_are_left_out() {
  configure "$source" "${nothing_optional[@]}" -DFSDPINIT_BUILD_BENCH=OFF
  expect "fsdpinit: tool left out: it needs safetensors and text and xxh3"
  expect "fsdpinit: tests left out without safetensors: init/changed_checkpoint_test.cpp init/pinned_counts_test.cpp observe/report_test.cpp"
  expect "fsdpinit: tests left out without xxh3: init/flips_test.cpp"
  expect "fsdpinit: tests left out without the tool: tool"
}

required_part_must_be_there() {
  refuse "fsdpinit: mpi is required (FSDPINIT_REQUIRE_MPI), but MPI was not found; install what is missing" "$source" \
    "${alone[@]}" "${nothing_optional[@]}" -DFSDPINIT_REQUIRE_MPI=1
}

required_by_the_environment() {
  FSDPINIT_REQUIRE_TEXT=1 refuse "fsdpinit: text is required (FSDPINIT_REQUIRE_TEXT), but fmt 9 was not found" "$source" \
    "${alone[@]}" "${nothing_optional[@]}"
}

part_switched_off_is_not_looked_for() {
  configure "$source" "${alone[@]}" -DFSDPINIT_WITH_MPI=OFF -DFSDPINIT_REQUIRE_MPI=1
  if grep -q '^MPI_CXX_' "$work/build/CMakeCache.txt"; then fail "MPI was looked for"; fi
}

# -- part of another project -----------------------------------------------------------------------------------------------------

added_as_subdirectory() {
  configure "$here/add_subdirectory" -DFSDPINIT_SOURCE="$source"
  build_and_run "$app_prints"
}

fetched_as_content() {
  configure "$here/fetch_content" -DFETCHCONTENT_SOURCE_DIR_FSDPINIT="$source"
  build_and_run "$app_prints"
}

target_of_the_parent_project_is_used() {
  configure "$here/parent" -DFSDPINIT_SOURCE="$source" "${nothing_optional[@]}"
  expect "text is there"
}

subproject_installs_only_if_asked() {
  configure "$here/parent" -DFSDPINIT_SOURCE="$source" "${nothing_optional[@]}"
  quietly "$cmake" --install "$work/build" --prefix "$work/nothing"
  if [[ -n $(find "$work/nothing" -type f 2>/dev/null) ]]; then fail "the library was installed with another project"; fi
  configure "$here/parent" -DFSDPINIT_INSTALL=ON
  quietly "$cmake" --install "$work/build" --prefix "$work/asked"
  if [[ ! -f $work/asked/include/fsdpinit/core.hpp ]]; then fail "FSDPINIT_INSTALL=ON installs nothing"; fi
}

"$test"
