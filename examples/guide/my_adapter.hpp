#pragma once

#include "my_framework.hpp"
#include <fsdpinit/fsdpinit.hpp>
#include <fsdpinit/memory/account.hpp>
#include <fsdpinit/os/file.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// \file
/// The framework of my_framework.hpp, as fsdpinit sees it: a step of the guide each.

// [slot]
template <>
struct fsdpinit::slot_traits<mine::tensor> {
  static slot_role role(const mine::tensor& t) {
    return t.computed ? slot_role::non_persistent_buffer : slot_role::parameter;
  }
  static fsdpinit::dtype dtype(const mine::tensor&) { return fsdpinit::dtype::f32; }
  static fsdpinit::shape shape(const mine::tensor& t) { return fsdpinit::shape(t.sizes); }
  static fsdpinit::placement placement(const mine::tensor& t) {
    return t.sizes.size() < 2 ? fsdpinit::placement(replicate{}) : shard{0};
  }
  static const std::byte* data(const mine::tensor& t) { return t.memory.get(); }
  static std::uint64_t stored_bytes(const mine::tensor& t) { return t.memory != nullptr ? t.bytes : 0; }
  static bool requires_grad(const mine::tensor& t) { return t.trained; }
  static void drop(mine::tensor& t) noexcept {
    t.memory.reset();
    t.bytes = 0;
  }
  static void adopt(mine::tensor& t, local_shard&& part) noexcept {
    t.memory = std::move(part.data);
    t.bytes = part.bytes;
    t.rows = part.shape.is_scalar() ? 1 : part.shape[0];
    t.first_row = part.offset;
  }
  // [slot]
  // [lending]
  static local_shard local(const mine::tensor& t) {
    if (t.memory == nullptr) {
      return {};
    }
    fsdpinit::shape held(t.sizes);
    if (!held.is_scalar()) {
      held[0] = t.rows;
    }
    return {.shape = std::move(held), .offset = t.first_row, .bytes = t.bytes, .data = t.memory};
  }
  // [lending]
};

// [module]
template <>
struct fsdpinit::module_traits<mine::module> {
  template <class Visitor>
  static void visit_slots(mine::module& node, Visitor&& visitor, const std::string& prefix = "") {
    for (auto& [name, slot] : node.tensors) {
      visitor(prefix + name, slot);
    }
    for (auto& [name, child] : node.children) {
      visit_slots(child, visitor, prefix + name + ".");
    }
  }
  static std::vector<std::vector<std::string>> tie_groups(const mine::module& root) { return root.tied; }
  static bool is_unit(const mine::module&, std::string_view path) {
    return path.starts_with("blocks.") && path.find('.', 7) == std::string_view::npos;
  }
};
// [module]

// [source]
/// A file of weights as a state dict: a file that is read by pread, piece by piece.
class weights_source {
 public:
  static constexpr bool reads_concurrently = true;  // pread keeps no position

  explicit weights_source(const std::string& path) : file_(path) {
    std::string text(fsdpinit::smaller(file_.size(), most_header_bytes), '\0');
    file_.read_exact_at(0, std::as_writable_bytes(std::span(text)));
    const std::size_t end = text.find("\n\n");
    if (end == std::string::npos) {
      throw fsdpinit::error(fsdpinit::errc::invalid_file, path, "has no list of tensors; give a file of weights");
    }
    std::istringstream lines(text.substr(0, end + 1));
    for (std::string line; std::getline(lines, line);) {
      add(line, end + 2);
    }
  }

  [[nodiscard]] std::span<const fsdpinit::tensor_descriptor> tensors() const { return descriptors_; }
  void read(std::size_t tensor, std::uint64_t offset, fsdpinit::mutable_bytes destination) const {
    read_file(0, positions_[tensor].offset + offset, destination);
  }
  // [source]
  // [positions]
  [[nodiscard]] std::size_t file_count() const { return 1; }
  [[nodiscard]] fsdpinit::file_position position_of(std::size_t tensor) const { return positions_[tensor]; }
  void read_file(std::size_t /*file*/, std::uint64_t offset, fsdpinit::mutable_bytes destination) const {
    file_.read_exact_at(offset, destination);
    file_.check_unchanged();
  }
  // [positions]

 private:
  static constexpr std::uint64_t most_header_bytes = 1 * fsdpinit::mib;

  /// Nothing of a file is believed: what lies outside of it, or cannot be counted, is an error that names it.
  void add(const std::string& line, std::uint64_t begin) {
    std::istringstream words(line);
    std::string name;
    std::uint64_t offset = 0;
    std::vector<std::uint64_t> sizes;
    const bool begins = static_cast<bool>(words >> name >> offset);
    for (std::uint64_t size = 0; words >> size;) {
      sizes.push_back(size);
    }
    fsdpinit::tensor_descriptor tensor{.name = name, .dtype = fsdpinit::dtype::f32, .shape = fsdpinit::shape(sizes)};
    const std::uint64_t bytes = byte_size(tensor);  // throws where that overflows
    const std::uint64_t room = file_.size() - begin;
    const bool is_new =
        std::none_of(descriptors_.begin(), descriptors_.end(), [&](const auto& each) { return each.name == name; });
    if (!begins || !words.eof() || !is_new || offset > room || bytes > room - offset) {
      throw fsdpinit::error(
          fsdpinit::errc::invalid_file, file_.path(),
          fsdpinit::concat("the line of tensor '", fsdpinit::printable(name),
                           "' cannot be read, comes twice, or leads out of the file; write the file again"));
    }
    descriptors_.push_back(std::move(tensor));
    positions_.push_back({.file = 0, .offset = begin + offset});
  }

  fsdpinit::input_file file_;
  std::vector<fsdpinit::tensor_descriptor> descriptors_;
  std::vector<fsdpinit::file_position> positions_;
};

// [communicator]
/// A group of sockets as a communicator: data and control channel in one.
class group_communicator {
 public:
  /// `group` outlives it. Without another deadline a peer is waited for as long as `seconds`.
  explicit group_communicator(mine::group& group, double seconds = 600) : group_(group), seconds_(seconds) {}

  [[nodiscard]] std::size_t rank() const { return group_.id(); }
  [[nodiscard]] std::size_t size() const { return group_.count(); }

  void broadcast(fsdpinit::mutable_bytes buffer, std::size_t root) { broadcast(buffer, root, limit()); }
  void broadcast(fsdpinit::mutable_bytes buffer, std::size_t root, fsdpinit::deadline limit) {
    if (rank() != root) {
      receive(buffer, root, limit);
      return;
    }
    for (std::size_t peer = 0; peer < size(); ++peer) {
      send(buffer, peer, limit);
    }
  }
  // [communicator]

  // [scatter]
  void scatter(std::span<const fsdpinit::bytes_view> windows, fsdpinit::mutable_bytes own, std::size_t root) {
    if (rank() != root) {
      receive(own, root, limit());
      return;
    }
    for (std::size_t peer = 0; peer < size(); ++peer) {
      send(windows[peer], peer, limit());
    }
  }
  // [scatter]

  // [control]
  [[nodiscard]] std::uint64_t all_reduce_max(std::uint64_t value, fsdpinit::deadline limit) {
    const fsdpinit::mutable_bytes bytes = std::as_writable_bytes(std::span(&value, 1));
    if (rank() != 0) {
      send(bytes, 0, limit);
    }
    for (std::size_t peer = 1; rank() == 0 && peer < size(); ++peer) {
      std::uint64_t theirs = 0;
      receive(std::as_writable_bytes(std::span(&theirs, 1)), peer, limit);
      value = std::max(value, theirs);
    }
    broadcast(bytes, 0, limit);
    return value;
  }
  // [control]

 private:
  [[nodiscard]] fsdpinit::deadline limit() const { return fsdpinit::deadline::after(seconds_); }
  void send(fsdpinit::bytes_view bytes, std::size_t peer, fsdpinit::deadline limit) const {
    if (peer != rank() && !group_.send(peer, bytes.data(), bytes.size(), limit.remaining())) {
      fail(peer);
    }
  }
  void receive(fsdpinit::mutable_bytes bytes, std::size_t peer, fsdpinit::deadline limit) const {
    if (!group_.receive(peer, bytes.data(), bytes.size(), limit.remaining())) {
      fail(peer);
    }
  }
  // [peer-lost]
  [[noreturn]] static void fail(std::size_t peer) {
    throw fsdpinit::error(fsdpinit::errc::peer_lost, "",
                          fsdpinit::concat("rank ", peer,
                                           " did not answer within the deadline, or is gone; look at it, "
                                           "or raise deadline_seconds"));
  }
  // [peer-lost]

  mine::group& group_;
  double seconds_;
};

// [memory]
/// The framework's own memory, with an account. Copies share both.
class pool_memory {
 public:
  struct queue {};  // copies are done when they return
  static constexpr bool host_accessible = true;

  explicit pool_memory(mine::pool& from) : pool_(&from), account_(std::make_shared<fsdpinit::account>()) {}

  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) {
    auto* const address = static_cast<std::byte*>(pool_->take(bytes, alignment));
    account_->add(bytes);
    return address;
  }
  void deallocate(std::byte* address, std::uint64_t bytes) noexcept {
    pool_->give_back(address);
    account_->remove(bytes);
  }
  void copy_in(std::byte* destination, const std::byte* source, std::uint64_t stride, std::uint64_t run,
               std::uint64_t count, queue& /*order*/) {
    for (std::uint64_t i = 0; i < count; ++i) {
      std::copy_n(source + i * stride, run, destination + i * run);
    }
  }
  void copy_out(std::byte* destination, const std::byte* source, std::uint64_t bytes, queue& /*order*/) {
    std::copy_n(source, bytes, destination);
  }
  void wait(queue& /*order*/) {}

  [[nodiscard]] std::uint64_t accounted() const noexcept { return account_->current(); }
  [[nodiscard]] std::uint64_t accounted_peak() const noexcept { return account_->peak(); }
  void restart_peak() noexcept { account_->restart_peak(); }
  /// For a `memory_timeline`.
  [[nodiscard]] std::shared_ptr<const fsdpinit::account> shared_account() const noexcept { return account_; }

 private:
  static constexpr std::size_t alignment = 256;
  mine::pool* pool_;
  std::shared_ptr<fsdpinit::account> account_;
};
// [memory]

// [optimizer]
/// An optimizer that was made for the whole module, under the names of its parameters.
class sgd_binding {
 public:
  sgd_binding(mine::sgd& optimizer, std::vector<std::string> names) : optimizer_(optimizer), names_(std::move(names)) {
    optimizer_.parameters.resize(names_.size());
  }

  [[nodiscard]] std::vector<std::vector<std::string>> parameter_groups() const { return {names_}; }
  [[nodiscard]] bool has_state() const { return !optimizer_.momenta.empty(); }
  void drop_references() noexcept {
    std::fill(optimizer_.parameters.begin(), optimizer_.parameters.end(), mine::sgd::parameter{});
    bound_ = 0;
  }
  void rebind(std::size_t /*group*/, std::string_view /*fqn*/, mine::tensor& slot) noexcept {
    optimizer_.parameters[bound_++] = {.memory = slot.memory, .bytes = slot.bytes};
  }

 private:
  mine::sgd& optimizer_;
  std::vector<std::string> names_;
  std::size_t bound_ = 0;
};
// [optimizer]
