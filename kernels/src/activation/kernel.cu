// Activations with the bias of the layer before them. A thread has a pack of columns, whose bias it reads once, in the rows of a tile.
#include "../cuda/common.cuh"
#include "functions.cuh"

namespace {
// y = f(x + bias), or with BACKWARD grad f'(x + bias).
template <u32 KIND, bool BACKWARD, typename T>
DEVICE void activate(const T *grad, const T *x, const T *bias, T *y, u32 rows, u32 d) {
  // Rows that a thread has under way.
  constexpr u32 N = Pack<T>::N, AHEAD = BACKWARD ? 2 : 4;
  u32 column = tile_column<T>();
  if (column >= d) return;
  bool packed = in_packs(x, d) && in_packs(y, d) && in_packs(grad, d);
  Pack<T> biases = {};
  if (bias != nullptr) biases = load_row(bias, column, d, in_packs(bias, d));
  u64 first = u64(blockIdx.x) * TILE_ROWS, last = least(first + TILE_ROWS, u64(rows));
  for (u64 row = first; row < last; row += AHEAD) {
    Pack<T> xs[AHEAD], gs[AHEAD];
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++) {
      if (row + r >= last) continue;
      xs[r] = load_row(x + (row + r) * d, column, d, packed);
      if (BACKWARD) gs[r] = load_row(grad + (row + r) * d, column, d, packed);
    }
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++) {
      if (row + r >= last) continue;
      for (u32 k = 0; k < N; k++) {
        float z = to_float(xs[r].x[k]) + to_float(biases.x[k]);
        xs[r].x[k] = from_float<T>(BACKWARD ? derivative<KIND>(z, to_float(gs[r].x[k])) : value<KIND>(z));
      }
      store_row(y + (row + r) * d, column, d, packed, xs[r]);
    }
  }
}

template <bool BACKWARD, typename T>
DEVICE void of_kind(const T *grad, const T *x, const T *bias, T *y, u32 rows, u32 d, u32 kind) {
  if (kind == GELU) activate<GELU, BACKWARD>(grad, x, bias, y, rows, d);
  else if (kind == GELU_TANH) activate<GELU_TANH, BACKWARD>(grad, x, bias, y, rows, d);
  else if (kind == RELU) activate<RELU, BACKWARD>(grad, x, bias, y, rows, d);
  else activate<SILU, BACKWARD>(grad, x, bias, y, rows, d);
}
}  // namespace

#define ACTIVATION(T, name)                                                                                          \
  KERNEL(256, 3) activation_forward_##name(const T *x, const T *bias, T *y, u32 rows, u32 d, u32 kind) {             \
    of_kind<false>(x, x, bias, y, rows, d, kind);                                                                    \
  }                                                                                                                  \
  KERNEL(256, 4)                                                                                                     \
  activation_backward_##name(const T *grad, const T *x, const T *bias, T *dx, u32 rows, u32 d, u32 kind) {           \
    of_kind<true>(grad, x, bias, dx, rows, d, kind);                                                                 \
  }                                                                                                                  \
  REGISTER(activation_forward_##name)                                                                                \
  REGISTER(activation_backward_##name)

ACTIVATION(float, f32)
ACTIVATION(bf16, bf16)
