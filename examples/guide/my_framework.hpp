#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

/// \file
/// A tensor framework, its file format and its message passing, none of which knows of fsdpinit: what the guide plugs in.

namespace mine {

/// Storage is reference-counted, as in most frameworks.
struct tensor {
  std::vector<std::uint64_t> sizes;  // of the whole tensor, float32
  bool computed = false;             // when the model is made, and so in no file
  bool trained = true;
  std::shared_ptr<std::byte> memory{};
  std::uint64_t bytes = 0;  // of the memory
  std::uint64_t rows = 0;   // in memory
  std::uint64_t first_row = 0;
};

inline std::uint64_t bytes_of(const std::vector<std::uint64_t>& sizes) {
  std::uint64_t bytes = sizeof(float);
  for (const std::uint64_t each : sizes) {
    bytes *= each;
  }
  return bytes;
}

struct module {
  std::map<std::string, tensor> tensors;
  std::map<std::string, module> children;
  std::vector<std::vector<std::string>> tied;
};

/// What is computed has its values; everything else is there in name and size only.
inline module make_model(int blocks) {
  const auto weight = [](std::vector<std::uint64_t> sizes) { return tensor{.sizes = std::move(sizes)}; };
  auto model = module{.tensors = {{"embed", weight({1000, 64})}, {"head", weight({1000, 64})}},
                      .children = {},
                      .tied = {{"embed", "head"}}};
  tensor& positions = model.tensors["positions"] = tensor{.sizes = {32}, .computed = true};
  const std::shared_ptr<float[]> values(new float[32]);
  for (std::size_t i = 0; i < 32; ++i) {
    values.get()[i] = static_cast<float>(i) / 32;
  }
  positions.memory = {values, reinterpret_cast<std::byte*>(values.get())};
  positions.bytes = bytes_of(positions.sizes);
  positions.rows = 32;
  for (int i = 0; i < blocks; ++i) {
    model.children["blocks"].children[std::to_string(i)].tensors = {
        {"up", weight({256, 64})}, {"down", weight({64, 256})}, {"norm", weight({64})}};
  }
  return model;
}

/// Updates what it was made for, and keeps that alive.
struct sgd {
  struct parameter {
    std::shared_ptr<std::byte> memory;
    std::uint64_t bytes = 0;
  };
  std::vector<parameter> parameters;
  std::vector<std::vector<float>> momenta;  // from the first step on
};

/// Memory of the framework's own allocator.
class pool {
 public:
  void* take(std::size_t bytes, std::size_t alignment) {
    void* const address = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (address == nullptr) {
      throw std::bad_alloc();
    }
    return address;
  }
  void give_back(void* address) noexcept { std::free(address); }
};

// -- files -----------------------------------------------------------------------------------------------------------------------

/// A file of weights begins with a line for each tensor, "name offset size size ...", and an empty one. Offsets count from there.
/// What a file of this module holds. Of tensors with several names the first.
inline std::vector<std::pair<std::string, std::vector<std::uint64_t>>> stored_sizes(const module& of,
                                                                                    const std::string& prefix = "") {
  std::vector<std::pair<std::string, std::vector<std::uint64_t>>> out;
  for (const auto& [name, each] : of.tensors) {
    if (!each.computed && name != "head") {
      out.emplace_back(prefix + name, each.sizes);
    }
  }
  for (const auto& [name, child] : of.children) {
    const auto below = stored_sizes(child, prefix + name + ".");
    out.insert(out.end(), below.begin(), below.end());
  }
  return out;
}

/// Of values that count up through the whole file.
inline void write_weights(const std::string& path,
                          const std::vector<std::pair<std::string, std::vector<std::uint64_t>>>& tensors) {
  std::ofstream out(path, std::ios::binary);
  std::uint64_t bytes = 0;
  for (const auto& [name, sizes] : tensors) {
    out << name << ' ' << bytes;
    for (const std::uint64_t size : sizes) {
      out << ' ' << size;
    }
    out << '\n';
    bytes += bytes_of(sizes);
  }
  out << '\n';
  for (std::uint64_t i = 0; i < bytes / sizeof(float); ++i) {
    const auto value = static_cast<float>(i);
    out.write(reinterpret_cast<const char*>(&value), sizeof value);
  }
}

// -- messages --------------------------------------------------------------------------------------------------------------------

/// One rank's end of a group in which each pair is joined by a socket; ranks may be threads or processes.
class group {
 public:
  explicit group(std::vector<int> sockets, std::size_t id) : sockets_(std::move(sockets)), id_(id) {}
  group(group&& other) noexcept : sockets_(std::exchange(other.sockets_, {})), id_(other.id_) {}
  group& operator=(group&&) = delete;
  ~group() {
    for (const int each : sockets_) {
      if (each >= 0) {
        ::close(each);
      }
    }
  }

  [[nodiscard]] std::size_t id() const noexcept { return id_; }
  [[nodiscard]] std::size_t count() const noexcept { return sockets_.size(); }

  /// Both return whether all bytes went through: not if the peer is gone, or if nothing moved for so long.
  [[nodiscard]] bool send(std::size_t peer, const void* bytes, std::size_t size, double seconds) const {
    const auto* at = static_cast<const char*>(bytes);
    return move(peer, POLLOUT, size, seconds, [&](std::size_t left) {
      const ::ssize_t count = ::send(sockets_[peer], at, left, MSG_DONTWAIT | MSG_NOSIGNAL);
      at += count > 0 ? count : 0;
      return count;
    });
  }
  [[nodiscard]] bool receive(std::size_t peer, void* bytes, std::size_t size, double seconds) const {
    auto* at = static_cast<char*>(bytes);
    return move(peer, POLLIN, size, seconds, [&](std::size_t left) {
      const ::ssize_t count = ::recv(sockets_[peer], at, left, MSG_DONTWAIT);
      at += count > 0 ? count : 0;
      return count;
    });
  }

 private:
  template <class Some>
  [[nodiscard]] bool move(std::size_t peer, short event, std::size_t size, double seconds, Some&& some) const {
    while (size != 0) {
      ::pollfd ready{.fd = sockets_[peer], .events = event, .revents = 0};
      const int woken = ::poll(&ready, 1, static_cast<int>(std::clamp(seconds, 0.0, most_seconds) * 1000));
      if (woken < 0 && errno == EINTR) {
        continue;
      }
      const ::ssize_t count = woken > 0 ? some(size) : 0;
      if (count < 0 && (errno == EINTR || errno == EAGAIN)) {
        continue;
      }
      if (count <= 0) {
        return false;
      }
      size -= static_cast<std::size_t>(count);
    }
    return true;
  }

  static constexpr double most_seconds = 86400;  // also where somebody would wait for ever

  std::vector<int> sockets_;  // by peer; -1 for this rank
  std::size_t id_;
};

inline std::vector<group> make_group(std::size_t count) {
  std::vector<std::vector<int>> sockets(count, std::vector<int>(count, -1));
  for (std::size_t a = 0; a < count; ++a) {
    for (std::size_t b = a + 1; b < count; ++b) {
      int pair[2];
      if (::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) {
        std::perror("socketpair");
        std::exit(1);  // NOLINT(concurrency-mt-unsafe): before there are ranks
      }
      sockets[a][b] = pair[0];
      sockets[b][a] = pair[1];
    }
  }
  std::vector<group> out;
  for (std::size_t id = 0; id < count; ++id) {
    out.emplace_back(std::move(sockets[id]), id);
  }
  return out;
}

}  // namespace mine
