#pragma once

#include <fsdpinit/core/bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace fsdpinit::detail {

/// own[i] = ((t0[i] + t1[i]) + t2[i]) + ..., in single precision and in that order, where `term(k)` is the address of tk; of one
/// term its copy. One pass over the terms, in blocks that stay in the cache. `own` may be one of the terms.
template <class Term>
void ordered_sum(std::span<float> own, std::size_t terms, Term&& term) {
  constexpr std::uint64_t block = 1024;
  float sum[block];
  for (std::uint64_t begin = 0; begin < own.size(); begin += block) {
    const std::uint64_t count = smaller(block, own.size() - begin);
    std::memcpy(sum, term(0) + begin, count * sizeof(float));
    for (std::size_t k = 1; k < terms; ++k) {
      const float* const next = term(k) + begin;
      if (count == block) {  // a length that is known is what makes g++ -O2 vectorise it: twice as fast
        for (std::uint64_t i = 0; i < block; ++i) {
          sum[i] += next[i];
        }
      } else {
        for (std::uint64_t i = 0; i < count; ++i) {
          sum[i] += next[i];
        }
      }
    }
    std::memcpy(own.data() + begin, sum, count * sizeof(float));
  }
}

}  // namespace fsdpinit::detail
