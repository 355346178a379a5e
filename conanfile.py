"""`conan create .` makes the package of Conan 2; it has the same CMake package inside as `cmake --install`."""

import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import load

# Each part is an option; without a package here, what it needs is the system's.
PARTS = {
    "safetensors": "nlohmann_json/[>=3.11 <4]",
    "text": "fmt/[>=9]",
    "xxh3": "xxhash/[>=0.8 <1]",
    "mpi": None,
    "cuda": None,
    "nccl": None,
    "torch": None,
}


class Fsdpinit(ConanFile):
    name = "fsdpinit"
    description = "Memory-efficient initialisation of fully sharded models"
    license = "Apache-2.0"
    package_type = "header-library"
    settings = "os", "compiler", "build_type", "arch"
    options = {part: [True, False] for part in PARTS}
    default_options = {part: needs is not None for part, needs in PARTS.items()}
    exports_sources = "CMakeLists.txt", "LICENSE", "cmake/*", "include/*"

    def set_version(self):
        header = load(self, os.path.join(self.recipe_folder, "include/fsdpinit/core/version.hpp"))
        self.version = ".".join(re.findall(r"#define FSDPINIT_VERSION_[A-Z]+ (\d+)", header))

    def requirements(self):
        self.requires("boost/[>=1.74 <2]", options={"header_only": True})
        self.requires("ms-gsl/[>=4 <5]")
        for part, needs in PARTS.items():
            if needs and self.options.get_safe(part):
                self.requires(needs)

    def validate(self):
        check_min_cppstd(self, 20)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        for kind in ("TESTS", "BENCH", "EXAMPLES", "DOCS"):
            toolchain.cache_variables[f"FSDPINIT_BUILD_{kind}"] = False
        for part in PARTS:  # what is installed depends on the options, and not on what else is found
            for wish in ("WITH", "REQUIRE"):
                toolchain.cache_variables[f"FSDPINIT_{wish}_{part.upper()}"] = bool(self.options.get_safe(part))
        toolchain.generate()

    def package(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.install()

    def package_id(self):
        self.info.settings.clear()

    def package_info(self):
        self.cpp_info.set_property("cmake_find_mode", "none")  # find_package finds the package's own files
        self.cpp_info.builddirs = ["share/cmake/fsdpinit"]
        self.cpp_info.bindirs = self.cpp_info.libdirs = []
