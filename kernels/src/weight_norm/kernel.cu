// Weight normalisation: v is rows of k numbers, and each of the k columns has a norm.
#include "../cuda/common.cuh"

// A block's rows of v.
constexpr u32 ROWS = 128;

// partial [gridDim.x, 2, k]: over the block's rows the sums of v squared and, if `grad` is given, of grad v, column by column.
template <typename T> DEVICE void dots(const T *v, const float *grad, float *partial, u32 rows, u32 k) {
  u64 first = u64(blockIdx.x) * ROWS, last = least(first + ROWS, u64(rows));
  for (u32 column = threadIdx.x; column < k; column += blockDim.x) {
    float squares = 0.0f, along = 0.0f;
    for (u64 row = first; row < last; row++) {
      float x = to_float(v[row * k + column]);
      squares += x * x;
      if (grad != nullptr) along += grad[row * k + column] * x;
    }
    partial[u64(blockIdx.x) * 2 * k + column] = squares;
    partial[u64(blockIdx.x) * 2 * k + k + column] = along;
  }
}

// w = g v / |v|, from sums [2, k].
template <typename T> DEVICE void apply(const T *v, const T *g, const float *sums, T *w, u64 n, u32 k) {
  u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) w[i] = from_float<T>(to_float(v[i]) * (to_float(g[i % k]) / sqrtf(sums[i % k])));
}

// dv = g / |v| (grad - v (grad . v) / |v|^2); the first block makes dg = grad . v / |v| too.
template <typename T> DEVICE void backward(const float *grad, const T *v, const T *g, const float *sums, float *dv, float *dg, u64 n, u32 k) {
  u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) {
    u32 column = u32(i % k);
    float squares = sums[column], scale = to_float(g[column]) / sqrtf(squares);
    dv[i] = scale * (grad[i] - to_float(v[i]) * (sums[k + column] / squares));
  }
  for (u32 column = threadIdx.x; blockIdx.x == 0 && column < k; column += blockDim.x) dg[column] = sums[k + column] / sqrtf(sums[column]);
}

#define WEIGHT_NORM(T, name)                                                                                                           \
  KERNEL(128, 1)                                                                                                                       \
  weight_norm_dots_##name(const T *v, const float *grad, float *partial, u32 rows, u32 k) { dots(v, grad, partial, rows, k); }         \
  KERNEL(256, 1)                                                                                                                       \
  weight_norm_apply_##name(const T *v, const T *g, const float *sums, T *w, u64 n, u32 k) { apply(v, g, sums, w, n, k); }              \
  KERNEL(256, 1)                                                                                                                       \
  weight_norm_backward_##name(const float *grad, const T *v, const T *g, const float *sums, float *dv, float *dg, u64 n, u32 k) {      \
    backward(grad, v, g, sums, dv, dg, n, k);                                                                                          \
  }                                                                                                                                    \
  REGISTER(weight_norm_dots_##name)                                                                                                    \
  REGISTER(weight_norm_apply_##name)                                                                                                   \
  REGISTER(weight_norm_backward_##name)

WEIGHT_NORM(float, f32)
WEIGHT_NORM(bf16, bf16)
