#pragma once

#include <fsdpinit/core/bytes.hpp>
#include <fsdpinit/init/transfer.hpp>
#include <fsdpinit/plan/plan.hpp>

#include <cstddef>
#include <cstdint>

namespace fsdpinit::detail {

/// Reads every tensor whole into `full_copy`: what each rank does where every rank loads the model.
template <class Source, MemorySpace Space, Observer Watch>
void read_everything(const plan& made, tensor_reader<Source, Space>& reader, workspace<Space>& work,
                     progress_meter<Watch>& progress) {
  mutable_bytes rest = work.full_copy.bytes();
  for (std::size_t i = 0; i < made.tensors.size(); ++i) {
    if (made.tensors[i].way != route::full_copy) {
      continue;
    }
    const mutable_bytes whole = rest.first(made.tensors[i].partition.bytes());
    rest = rest.subspan(whole.size());
    if (!whole.empty()) {
      reader.read(i, 0, whole);
    }
    progress.add(whole.size());
  }
}

/// Copies this rank's part of the full model into its slabs.
template <MemorySpace Space>
void keep_own_part(const plan& made, std::size_t rank, workspace<Space>& work) {
  tensor_placer<Space> placer(made, rank, work);
  bytes_view rest = work.full_copy.bytes();
  for (std::size_t i = 0; i < made.tensors.size(); ++i) {
    if (made.tensors[i].way != route::full_copy) {
      continue;
    }
    const bytes_view whole = rest.first(made.tensors[i].partition.bytes());
    rest = rest.subspan(whole.size());
    placer.place_global(i, 0, whole);
  }
  placer.wait();
}

}  // namespace fsdpinit::detail
