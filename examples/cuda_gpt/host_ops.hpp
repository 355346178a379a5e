#pragma once

// What a decoder is made of, on the host, as plainly as it can be said: the reference for the kernels, and what the CPU build runs.
#include <fsdpinit/memory/host_memory.hpp>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

namespace gpt {

/// All tensors are float32, row-major; `t` tokens (rows), `c` channels. `out` is none of the inputs.
class host_ops {
 public:
  using space = fsdpinit::host_memory;

  [[nodiscard]] static space memory() { return {}; }

  void embed(float* out, const int* tokens, const float* rows, const float* positions, std::uint64_t t,
             std::uint64_t c) {
    for (std::uint64_t i = 0; i < t; ++i) {
      for (std::uint64_t k = 0; k < c; ++k) {
        out[i * c + k] = rows[static_cast<std::uint64_t>(tokens[i]) * c + k] + positions[i * c + k];
      }
    }
  }

  void normalise(float* out, const float* in, const float* weight, const float* bias, std::uint64_t t,
                 std::uint64_t c) {
    for (std::uint64_t i = 0; i < t; ++i) {
      const float* const row = in + i * c;
      float mean = 0;
      for (std::uint64_t k = 0; k < c; ++k) mean += row[k];
      mean /= static_cast<float>(c);
      float variance = 0;
      for (std::uint64_t k = 0; k < c; ++k) variance += (row[k] - mean) * (row[k] - mean);
      const float scale = 1 / std::sqrt(variance / static_cast<float>(c) + 1e-5F);
      for (std::uint64_t k = 0; k < c; ++k) out[i * c + k] = (row[k] - mean) * scale * weight[k] + bias[k];
    }
  }

  /// out[i][o] = the sum over k of in[i][k] weight[o][k], and bias[o] unless `bias` is nullptr.
  void multiply(float* out, const float* in, const float* weight, const float* bias, std::uint64_t t, std::uint64_t c,
                std::uint64_t outputs) {
    for (std::uint64_t i = 0; i < t; ++i) {
      for (std::uint64_t o = 0; o < outputs; ++o) {
        float sum = bias != nullptr ? bias[o] : 0;
        for (std::uint64_t k = 0; k < c; ++k) sum += in[i * c + k] * weight[o * c + k];
        out[i * outputs + o] = sum;
      }
    }
  }

  /// Causal. A row of `qkv` holds queries, keys and values of all heads, `c` each.
  void attend(float* out, const float* qkv, std::uint64_t t, std::uint64_t c, std::uint64_t heads) {
    const std::uint64_t width = c / heads;
    const float scale = 1 / std::sqrt(static_cast<float>(width));
    std::vector<float> shares(t);
    for (std::uint64_t head = 0; head < heads; ++head) {
      for (std::uint64_t i = 0; i < t; ++i) {
        const float* const query = qkv + i * 3 * c + head * width;
        float largest = -INFINITY;
        for (std::uint64_t j = 0; j <= i; ++j) {
          const float* const key = qkv + j * 3 * c + c + head * width;
          shares[j] = 0;
          for (std::uint64_t k = 0; k < width; ++k) shares[j] += query[k] * key[k];
          shares[j] *= scale;
          largest = std::fmax(largest, shares[j]);
        }
        float all = 0;
        for (std::uint64_t j = 0; j <= i; ++j) all += shares[j] = std::exp(shares[j] - largest);
        for (std::uint64_t k = 0; k < width; ++k) {
          float sum = 0;
          for (std::uint64_t j = 0; j <= i; ++j) sum += shares[j] * qkv[j * 3 * c + 2 * c + head * width + k];
          out[i * c + head * width + k] = sum / all;
        }
      }
    }
  }

  /// In place; the approximation by tanh that GPT-2 was trained with.
  void activate(float* values, std::uint64_t count) {
    const float scale = std::sqrt(2 * std::numbers::inv_pi_v<float>);
    for (std::uint64_t i = 0; i < count; ++i) {
      const float x = values[i];
      values[i] = 0.5F * x * (1 + std::tanh(scale * (x + 0.044715F * x * x * x)));
    }
  }

  void add(float* to, const float* from, std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) to[i] += from[i];
  }

  /// What was started is done.
  void wait() {}
};

}  // namespace gpt
