// Who this process is, and its process group.
#pragma once

#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

#include <ATen/core/ivalue.h>  // before the rest: without it libtorch 1.13 does not compile as C++20

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

/// As torchrun and its like say it: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT. Under mpirun its own variables will do for the first
/// two. One process alone needs none.
struct launch {
  int rank = 0;
  int size = 1;
  std::string address = "127.0.0.1";
  std::uint16_t port = 29500;
};

template <class Number>
Number number_from(std::initializer_list<const char*> variables, Number otherwise) {
  for (const char* const name : variables) {
    if (const char* const value = std::getenv(name)) {  // NOLINT(concurrency-mt-unsafe): before any thread is started
      const std::string_view text = value;
      Number number{};
      const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
      if (failure != std::errc{} || end != text.data() + text.size()) {
        throw std::invalid_argument(std::string(name) + " is '" + value + "', which is no such number");
      }
      return number;
    }
  }
  return otherwise;
}

inline launch launch_from_environment() {
  launch out;
  out.rank = number_from({"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"}, out.rank);
  out.size = number_from({"WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}, out.size);
  out.port = number_from({"MASTER_PORT"}, out.port);
  if (const char* const address = std::getenv("MASTER_ADDR")) {  // NOLINT(concurrency-mt-unsafe): as above
    out.address = address;
  }
  if (out.size < 1 || out.rank < 0 || out.rank >= out.size) {
    throw std::invalid_argument("RANK is " + std::to_string(out.rank) + " of WORLD_SIZE " + std::to_string(out.size));
  }
  return out;
}

/// libtorch 2.4 and newer serve a store by libuv, which Debian's is built without. Others have no such option.
template <class Options>
void use_plain_sockets(Options& where) {
  if constexpr (requires { where.useLibUV; }) {
    where.useLibUV = false;
  }
}

/// Gloo over a TCP store that rank 0 serves.
inline c10::intrusive_ptr<c10d::ProcessGroupGloo> make_process_group(const launch& who,
                                                                     std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions where;
  where.port = who.port;
  where.isServer = who.rank == 0;
  where.numWorkers = static_cast<std::size_t>(who.size);
  where.timeout = timeout;
  use_plain_sockets(where);
  const auto store = c10::make_intrusive<c10d::TCPStore>(who.address, where);
  const auto how = c10d::ProcessGroupGloo::Options::create(timeout);
  how->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, who.rank, who.size, how);
}
