#pragma once

#include <fsdpinit/adapters/torch_dtype.hpp>
#include <fsdpinit/adapters/torch_first.hpp>
#include <fsdpinit/adapters/torch_slot.hpp>
#include <fsdpinit/concepts/shardable_module.hpp>
#include <fsdpinit/core/error.hpp>
#include <fsdpinit/core/text.hpp>
#include <fsdpinit/index/mesh.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <torch/csrc/autograd/variable.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/serialize.h>

namespace fsdpinit {

/// Asked once for each tensor, when a `torch_module` is made; answers alike on every rank.
struct torch_module_options {
  /// Is a buffer of this name in checkpoints? libtorch does not tell. Without it those are that the source has; the values of others
  /// come from the source rank's module.
  std::function<bool(std::string_view fqn)> is_persistent{};
  /// How a parameter lies on the mesh. Without it `shard{0}`, and scalars are replicated.
  std::function<placement(std::string_view fqn, const at::Tensor& parameter)> placement_of{};
  /// Where the memory space of the shards is.
  c10::Device device = c10::kCPU;
};

/// A `torch::nn::Module` as a ShardableModule: parameters and buffers under the names that `named_parameters()` and
/// `named_buffers()` have for them. Make it from the whole module, and keep it for as long as that is initialised, unsharded or
/// resharded: it knows the global shapes.
///
/// Tensors are exchanged inside their handles (see `torch_slot`), so that whatever refers to a parameter goes on doing so. What is
/// tied stays tied, in either form that libtorch has: one TensorImpl under two names, or two over one storage.
class torch_module {
 public:
  /// Local. \param root  outlives this object, as the module that it is.
  /// \throws error naming the FQN: invalid_argument for a parameter that a live graph refers to, or that is no leaf; for a tensor
  /// that is not dense and contiguous, or lies elsewhere than `options.device` and meta; dtype_mismatch for a dtype that checkpoints do
  /// not know; invalid_tie for tensors that overlap in part.
  explicit torch_module(torch::nn::Module& root, const torch_module_options& options = {}) : root_(&root) {
    take(root, "", options);
    find_ties();
  }
  /// Of a `torch::nn::ModuleHolder`: `torch_module(net)` for `auto net = MyModel(...)`.
  template <class Contained>
  explicit torch_module(torch::nn::ModuleHolder<Contained>& root, const torch_module_options& options = {})
      : torch_module(static_cast<torch::nn::Module&>(*root), options) {}

  template <class Visitor>
  void visit_slots(Visitor&& visitor) {
    for (entry& each : entries_) {
      visitor(std::string_view(each.fqn), *each.slot);
    }
  }
  [[nodiscard]] const std::vector<std::vector<std::string>>& tie_groups() const noexcept { return ties_; }

  /// Each parameter tensor once, under the first of its names: what to make an optimizer of. `named_parameters()` has a tied tensor
  /// twice, and an optimizer made of that updates it twice per step.
  [[nodiscard]] std::vector<at::Tensor> parameters() const {
    std::vector<at::Tensor> out;
    for (const entry& each : entries_) {
      if (each.slot->role() == slot_role::parameter && each.first) {
        out.push_back(each.slot->tensor());
      }
    }
    return out;
  }
  /// The name of that very tensor, the first of several; empty if the module has none such.
  [[nodiscard]] std::string_view fqn_of(const at::Tensor& tensor) const noexcept {
    for (const entry& each : entries_) {
      if (each.slot->tensor().is_same(tensor)) {
        return each.fqn;
      }
    }
    return {};
  }

  /// Its tensor of that name. O(tensors). \throws error{invalid_argument} if it has none.
  [[nodiscard]] const at::Tensor& tensor(std::string_view fqn) const {
    for (const entry& each : entries_) {
      if (each.fqn == fqn) {
        return each.slot->tensor();
      }
    }
    throw error(errc::invalid_argument, fqn, "the module has no parameter or buffer of this name");
  }

  /// \throws error{invalid_argument} naming the first tensor that is on meta: a forward pass would return meta tensors, and
  /// `torch::save` would write a file without data, both without a word.
  void require_materialised() const {
    for (const entry& each : entries_) {
      if (each.slot->is_meta()) {
        throw error(errc::invalid_argument, each.fqn,
                    "it is on meta; initialise the module before it is used or saved");
      }
    }
  }
  /// `torch::save(root)`, but for a module whose tensors are there, whole. \throws error{invalid_argument} naming one that is on meta
  /// or sharded; what libtorch throws.
  void save(std::ostream& to) const {
    require_materialised();
    for (const entry& each : entries_) {
      const shape& global = each.slot->shape();
      if (each.slot->local().shape != global) {
        throw error(errc::invalid_argument, each.fqn,
                    concat("it holds ", to_string(each.slot->local().shape), " of ", to_string(global),
                           "; unshard it before it is saved, or save its parts"));
      }
    }
    torch::serialize::OutputArchive archive;
    root_->save(archive);
    archive.save_to(to);
  }

  /// Names of tensors that something besides the module refers to the bytes of (a view, a detached copy): what they hold is not freed
  /// when the module drops it. For a look when memory does not fall as predicted.
  [[nodiscard]] std::vector<std::string> held_elsewhere() const {
    std::map<const void*, std::size_t> own;
    std::map<const void*, const void*> storage_of;  // of a TensorImpl
    for (const entry& each : entries_) {
      const at::Tensor& tensor = each.slot->tensor();
      if (!tensor.is_meta() &&
          storage_of.emplace(tensor.unsafeGetTensorImpl(), tensor.storage().unsafeGetStorageImpl()).second) {
        ++own[tensor.storage().unsafeGetStorageImpl()];
      }
    }
    std::vector<std::string> names;
    for (const entry& each : entries_) {
      const at::Tensor& tensor = each.slot->tensor();
      if (!tensor.is_meta() && tensor.storage().use_count() > own[tensor.storage().unsafeGetStorageImpl()]) {
        names.push_back(each.fqn);
      }
    }
    return names;
  }

 private:
  struct entry {
    std::string fqn;
    std::unique_ptr<torch_slot> slot;
    bool first = true;  // of the names of its tensor
  };

  void take(torch::nn::Module& module, const std::string& prefix, const torch_module_options& options) {
    for (const auto& item : module.named_parameters(/*recurse=*/false)) {
      add(prefix + item.key(), item.value(), slot_role::parameter, options);
    }
    for (const auto& item : module.named_buffers(/*recurse=*/false)) {
      const std::string fqn = prefix + item.key();
      slot_role role = slot_role::undeclared_buffer;
      if (options.is_persistent) {
        role = options.is_persistent(fqn) ? slot_role::persistent_buffer : slot_role::non_persistent_buffer;
      }
      add(fqn, item.value(), role, options);
    }
    for (const auto& item : module.named_children()) {
      take(*item.value(), prefix + item.key() + ".", options);
    }
  }

  void add(const std::string& fqn, const at::Tensor& tensor, slot_role role, const torch_module_options& options) {
    const std::optional<dtype> type = dtype_of(tensor.scalar_type());
    if (!type) {
      throw error(errc::dtype_mismatch, fqn,
                  concat("checkpoints have no dtype for ", c10::toString(tensor.scalar_type()),
                         "; convert the module, or leave it out of it"));
    }
    require_plain(fqn, tensor, options.device);
    placement where = replicate{};
    if (role == slot_role::parameter) {
      where = options.placement_of ? options.placement_of(fqn, tensor)
              : tensor.dim() == 0  ? placement(replicate{})
                                   : placement(shard{0});
    }
    entries_.push_back({.fqn = fqn, .slot = std::make_unique<torch_slot>(tensor, role, *type, where, options.device)});
  }

  static void require_plain(std::string_view fqn, const at::Tensor& tensor, c10::Device device) {
    const auto reject = [&](std::string_view text) { throw error(errc::invalid_argument, fqn, text); };
    if (tensor.layout() != c10::kStrided || !tensor.is_contiguous()) {
      reject("it is not dense and contiguous; register tensor.contiguous() in its place");
    }
    if (!tensor.is_meta() && tensor.device() != device) {
      reject(concat("it is on ", tensor.device().str(), ", but its shards are to be on ", device.str(),
                    "; move the module there, or to meta, or name its device in torch_module_options"));
    }
    if (!tensor.is_leaf()) {
      reject("it is not a leaf: a graph computes it; register a tensor without history, tensor.detach()");
    }
    if (tensor.requires_grad() && torch::autograd::impl::try_get_grad_accumulator(tensor) != nullptr) {
      reject("a live graph used it, and would run its backward pass over other shapes; let go of outputs and losses");
    }
  }

  /// Where the bytes of a tensor lie: its storage, and the range within that.
  struct extent_of_bytes {
    const void* storage;
    std::uint64_t begin;
    std::uint64_t end;
    std::size_t entry;

    [[nodiscard]] auto key() const noexcept { return std::tuple(storage, begin, end, entry); }
  };

  void find_ties() {
    std::map<const void*, std::vector<std::size_t>> by_impl;
    std::vector<extent_of_bytes> extents;  // of each TensorImpl, once
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const at::Tensor& tensor = entries_[i].slot->tensor();
      std::vector<std::size_t>& same = by_impl[tensor.unsafeGetTensorImpl()];
      if (same.empty() && tensor.numel() != 0) {
        const std::uint64_t begin = static_cast<std::uint64_t>(tensor.storage_offset()) * tensor.itemsize();
        extents.push_back({.storage = tensor.storage().unsafeGetStorageImpl(),
                           .begin = begin,
                           .end = begin + tensor.nbytes(),
                           .entry = i});
      }
      same.push_back(i);
    }
    std::sort(extents.begin(), extents.end(), [](const auto& a, const auto& b) { return a.key() < b.key(); });
    for (std::size_t i = 1; i < extents.size(); ++i) {
      join(extents[i - 1], extents[i], by_impl);
    }
    std::vector<std::vector<std::size_t>> groups;
    for (const auto& [impl, members] : by_impl) {
      if (members.size() > 1) {
        groups.push_back(members);
      }
    }
    for (std::vector<std::size_t>& members : groups) {
      std::sort(members.begin(), members.end());
    }
    std::sort(groups.begin(), groups.end());  // not by address: equal on every rank
    for (const std::vector<std::size_t>& members : groups) {
      declare_tied(members);
    }
  }

  /// Two neighbours by address: apart, one and the same, or an error.
  void join(const extent_of_bytes& a, const extent_of_bytes& b,
            std::map<const void*, std::vector<std::size_t>>& by_impl) {
    if (a.storage != b.storage || a.end <= b.begin) {
      return;
    }
    torch_slot& one = *entries_[a.entry].slot;
    torch_slot& other = *entries_[b.entry].slot;
    if (a.begin != b.begin || a.end != b.end || one.shape() != other.shape() || one.dtype() != other.dtype()) {
      throw error(
          errc::invalid_tie, entries_[b.entry].fqn,
          concat("it shares part of its bytes with ", printable(entries_[a.entry].fqn),
                 ", so that neither can be sharded by itself; tie whole tensors, or give each its own storage"));
    }
    one.share_storage_with(other);
    other.share_storage_with(one);
    std::vector<std::size_t>& into = by_impl[other.tensor().unsafeGetTensorImpl()];
    std::vector<std::size_t>& from = by_impl[one.tensor().unsafeGetTensorImpl()];
    into.insert(into.end(), from.begin(), from.end());
    from.clear();
  }

  /// Buffers of a module that is registered twice need no tie: each is whole on every rank.
  void declare_tied(const std::vector<std::size_t>& members) {
    std::vector<std::string> names;
    for (const std::size_t i : members) {
      entry& each = entries_[i];
      if (each.slot->role() == slot_role::parameter) {
        each.first = names.empty();
        names.push_back(each.fqn);
      }
    }
    if (names.size() > 1) {
      ties_.push_back(std::move(names));
    }
  }

  torch::nn::Module* root_;
  std::vector<entry> entries_;
  std::vector<std::vector<std::string>> ties_;
};

}  // namespace fsdpinit
