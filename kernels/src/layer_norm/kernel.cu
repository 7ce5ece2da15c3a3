// LayerNorm. A block makes a row; each of its threads holds up to PACKS packs of it, so a row is read once.
#include "../cuda/common.cuh"
#include "../activation/functions.cuh"

namespace {
// Of x, or of x + added, which then goes to `total`; if GELUS, gelu of that.
template <typename T, u32 PACKS, bool GELUS>
DEVICE void forward(const T *x, const T *added, const T *w, const T *b, T *y, T *total, float *stats, u32 d, float eps) {
  constexpr u32 N = Pack<T>::N;
  u64 row = blockIdx.x;
  bool adds = added != nullptr;
  bool packed = in_packs(x, d) && in_packs(added, d) && in_packs(w, d) && in_packs(b, d) && in_packs(y, d) && in_packs(total, d);
  x += row * d;
  y += row * d;
  Pack<T> kept[PACKS];
  float sum = 0.0f;
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) kept[p] = load_row(x, (p * blockDim.x + threadIdx.x) * N, d, packed);
#pragma unroll
  for (u32 p = 0; adds && p < PACKS; p++) {
    u32 i = (p * blockDim.x + threadIdx.x) * N;
    add_pack(kept[p], load_row(added + row * d, i, d, packed));
    store_row(total + row * d, i, d, packed, kept[p]);
  }
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) {
    for (u32 k = 0; k < N; k++) sum += to_float(kept[p].x[k]);
  }
  float mean = block_sum(sum) / float(d);
  // What the first estimate's rounding left, which grows with the row's offset, and the squares about it.
  float rest = 0.0f, squares = 0.0f;
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) {
    u32 i = (p * blockDim.x + threadIdx.x) * N;
    for (u32 k = 0; k < N; k++) {
      float v = i + k < d ? to_float(kept[p].x[k]) - mean : 0.0f;
      rest += v;
      squares += v * v;
    }
  }
  block_sum2(rest, squares);
  rest /= float(d);
  mean += rest;
  float r = 1.0f / sqrtf(fmaxf(squares / float(d) - rest * rest, 0.0f) + eps);
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) {
    u32 i = (p * blockDim.x + threadIdx.x) * N;
    Pack<T> weight = load_row(w, i, d, packed), bias = load_row(b, i, d, packed);
    for (u32 k = 0; k < N; k++) {
      float z = (to_float(kept[p].x[k]) - mean) * r * to_float(weight.x[k]) + to_float(bias.x[k]);
      kept[p].x[k] = from_float<T>(GELUS ? value<GELU>(z) : z);
    }
    store_row(y, i, d, packed, kept[p]);
  }
  if (threadIdx.x == 0) {
    stats[2 * row] = mean;
    stats[2 * row + 1] = r;
  }
}

// grad in front of the gelu behind the norm.
template <typename T> DEVICE Pack<T> before_gelu(Pack<T> grad, const Pack<T> &x, const Pack<T> &w, const Pack<T> &b, float mean, float r) {
  for (u32 k = 0; k < Pack<T>::N; k++) {
    float z = (to_float(x.x[k]) - mean) * r * to_float(w.x[k]) + to_float(b.x[k]);
    grad.x[k] = from_float<T>(derivative<GELU>(z, to_float(grad.x[k])));
  }
  return grad;
}

// A block makes the rows blockIdx.x, blockIdx.x + gridDim.x, ..., each with that of `carried` added if it is given, and, if `partial` is given, the sums of their parts of the gradients of weight and bias:
// partial [gridDim.x, 2 d].
template <typename T, u32 PACKS, bool GELUS>
DEVICE void backward(const T *grad, const T *carried, const T *x, const T *w, const T *b, const float *stats, T *dx, float *partial, u32 rows, u32 d) {
  constexpr u32 N = Pack<T>::N;
  bool packed = in_packs(grad, d) && in_packs(carried, d) && in_packs(x, d) && in_packs(w, d) && in_packs(b, d) && in_packs(dx, d);
  // The registers of a wide row are all taken by the sums: the rest comes out of the cache again.
  constexpr bool KEEP = PACKS <= 2;
  Pack<T> weights[PACKS];
#pragma unroll
  for (u32 p = 0; p < PACKS; p++)
    if (KEEP) weights[p] = load_row(w, (p * blockDim.x + threadIdx.x) * N, d, packed);
  float dw[PACKS][N] = {}, db[PACKS][N] = {};
  for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
    float mean = stats[2 * row], r = stats[2 * row + 1];
    Pack<T> gs[PACKS], xs[PACKS];
    float constant = 0.0f, along = 0.0f;
#pragma unroll
    for (u32 p = 0; p < PACKS; p++) {
      u32 i = (p * blockDim.x + threadIdx.x) * N;
      if (KEEP) gs[p] = load_row(grad + row * d, i, d, packed);
      if (KEEP) xs[p] = load_row(x + row * d, i, d, packed);
    }
#pragma unroll
    for (u32 p = 0; p < PACKS; p++) {
      u32 i = (p * blockDim.x + threadIdx.x) * N;
      if (!KEEP) {
        gs[p] = load_row(grad + row * d, i, d, packed);
        xs[p] = load_row(x + row * d, i, d, packed);
        weights[p] = load_row(w, i, d, packed);
      }
      if constexpr (GELUS) gs[p] = before_gelu(gs[p], xs[p], weights[p], load_row(b, i, d, packed), mean, r);
      for (u32 k = 0; k < N; k++) {
        // Past the row's end the gradient is zero.
        float g = to_float(gs[p].x[k]), v = (to_float(xs[p].x[k]) - mean) * r, weighted = g * to_float(weights[p].x[k]);
        constant += weighted;
        along += weighted * v;
        dw[p][k] += g * v;
        db[p][k] += g;
      }
    }
    block_sum2(constant, along);
    constant /= float(d);
    along *= r / float(d);
#pragma unroll
    for (u32 p = 0; p < PACKS; p++) {
      u32 i = (p * blockDim.x + threadIdx.x) * N;
      if (!KEEP) {
        weights[p] = load_row(w, i, d, packed);
        gs[p] = load_row(grad + row * d, i, d, packed);
        xs[p] = load_row(x + row * d, i, d, packed);
        if constexpr (GELUS) gs[p] = before_gelu(gs[p], xs[p], weights[p], load_row(b, i, d, packed), mean, r);
      }
      for (u32 k = 0; k < N; k++) {
        float v = to_float(xs[p].x[k]) - mean;
        gs[p].x[k] = from_float<T>(r * (to_float(gs[p].x[k]) * to_float(weights[p].x[k]) - constant - v * along));
      }
      if (carried != nullptr) add_pack(gs[p], load_row(carried + row * d, i, d, packed));
      store_row(dx + row * d, i, d, packed, gs[p]);
    }
  }
  if (partial == nullptr) return;
  partial += u64(blockIdx.x) * 2 * d;
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) {
    u32 i = (p * blockDim.x + threadIdx.x) * N;
    for (u32 k = 0; k < N; k++) {
      if (i + k < d) partial[i + k] = dw[p][k];
      if (i + k < d) partial[d + i + k] = db[p][k];
    }
  }
}
}  // namespace

#define LAYER_NORM(T, name, PACKS, GELUS)                                                                                     \
  KERNEL(512, 1)                                                                                                              \
  layer_norm_forward_##name(const T *x, const T *added, const T *w, const T *b, T *y, T *total, float *stats, u32 d,         \
                            float eps) {                                                                                      \
    forward<T, PACKS, GELUS>(x, added, w, b, y, total, stats, d, eps);                                                        \
  }                                                                                                                           \
  KERNEL(512, 1)                                                                                                              \
  layer_norm_backward_##name(const T *grad, const T *carried, const T *x, const T *w, const T *b, const float *stats, T *dx, \
                             float *partial, u32 rows, u32 d) {                                                               \
    backward<T, PACKS, GELUS>(grad, carried, x, w, b, stats, dx, partial, rows, d);                                           \
  }                                                                                                                           \
  REGISTER(layer_norm_forward_##name)                                                                                         \
  REGISTER(layer_norm_backward_##name)

LAYER_NORM(float, narrow_f32, 2, false)
LAYER_NORM(float, wide_f32, ROW_PACKS, false)
LAYER_NORM(bf16, narrow_bf16, 2, false)
LAYER_NORM(bf16, wide_bf16, ROW_PACKS, false)
// No convolution has wide rows.
LAYER_NORM(float, gelu_narrow_f32, 2, true)
LAYER_NORM(bf16, gelu_narrow_bf16, 2, true)
