#pragma once

#include <cstddef>
#include <optional>

namespace fsdpinit::tool {

/// Where this process is one of several that mpirun or srun has started: its rank among them, known before MPI_Init.
/// \see the variables that Open MPI, PMI (MPICH, Intel MPI), PMIx and Slurm set.
[[nodiscard]] std::optional<std::size_t> launched_rank();

}  // namespace fsdpinit::tool
