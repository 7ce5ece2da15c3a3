// RMSNorm. A block makes a row; each of its threads holds up to four packs of it, so a row is read once.
#include "../cuda/common.cuh"

namespace {
constexpr u32 PACKS = ROW_PACKS;

// Of x, or of x + added, which then goes to `sum`.
template <typename T>
DEVICE void forward(const T *x, const T *added, const T *w, T *y, T *sum, float *rstd, u32 d, float eps) {
  constexpr u32 N = Pack<T>::N;
  u64 row = blockIdx.x;
  bool adds = added != nullptr;
  bool packed = in_packs(x, d) && in_packs(added, d) && in_packs(w, d) && in_packs(y, d) && in_packs(sum, d);
  x += row * d;
  y += row * d;
  Pack<T> kept[PACKS];
  float squares = 0.0f;
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) {
    u32 i = (p * blockDim.x + threadIdx.x) * N;
    kept[p] = load_row(x, i, d, packed);
    if (adds) {
      add_pack(kept[p], load_row(added + row * d, i, d, packed));
      store_row(sum + row * d, i, d, packed, kept[p]);
    }
    for (u32 k = 0; k < N; k++) squares += to_float(kept[p].x[k]) * to_float(kept[p].x[k]);
  }
  float r = 1.0f / sqrtf(block_sum(squares) / float(d) + eps);
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) {
    u32 i = (p * blockDim.x + threadIdx.x) * N;
    Pack<T> weight = load_row(w, i, d, packed);
    for (u32 k = 0; k < N; k++) kept[p].x[k] = from_float<T>(to_float(kept[p].x[k]) * r * to_float(weight.x[k]));
    store_row(y, i, d, packed, kept[p]);
  }
  if (threadIdx.x == 0) rstd[row] = r;
}

// A block makes the rows blockIdx.x, blockIdx.x + gridDim.x, ..., each with that of `carried` added if it is given, and, if WEIGHT, the sum of their parts of the weight's gradient: partial [gridDim.x, d].
template <typename T, bool WEIGHT>
DEVICE void backward(const T *grad, const T *carried, const T *x, const T *w, const float *rstd, T *dx, float *partial, u32 rows, u32 d) {
  constexpr u32 N = Pack<T>::N;
  bool packed = in_packs(grad, d) && in_packs(carried, d) && in_packs(x, d) && in_packs(w, d) && in_packs(dx, d);
  float sums[PACKS][N] = {};
  for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
    float r = rstd[row];
    Pack<T> gs[PACKS], xs[PACKS];
    float along = 0.0f;
#pragma unroll
    for (u32 p = 0; p < PACKS; p++) {
      u32 i = (p * blockDim.x + threadIdx.x) * N;
      gs[p] = load_row(grad + row * d, i, d, packed);
      xs[p] = load_row(x + row * d, i, d, packed);
      Pack<T> weight = load_row(w, i, d, packed);
      for (u32 k = 0; k < N; k++) {
        float g = to_float(gs[p].x[k]), v = to_float(xs[p].x[k]);
        along += g * to_float(weight.x[k]) * v;
        if (WEIGHT) sums[p][k] += g * v * r;
      }
    }
    along = block_sum(along) * r * r / float(d);
#pragma unroll
    for (u32 p = 0; p < PACKS; p++) {
      u32 i = (p * blockDim.x + threadIdx.x) * N;
      Pack<T> weight = load_row(w, i, d, packed);
      if (WEIGHT) xs[p] = load_row(x + row * d, i, d, packed);
      for (u32 k = 0; k < N; k++)
        gs[p].x[k] = from_float<T>(r * (to_float(gs[p].x[k]) * to_float(weight.x[k]) - to_float(xs[p].x[k]) * along));
      if (carried != nullptr) add_pack(gs[p], load_row(carried + row * d, i, d, packed));
      store_row(dx + row * d, i, d, packed, gs[p]);
    }
  }
#pragma unroll
  for (u32 p = 0; WEIGHT && p < PACKS; p++) {
    u32 i = (p * blockDim.x + threadIdx.x) * N;
    for (u32 k = 0; k < N; k++)
      if (i + k < d) partial[u64(blockIdx.x) * d + i + k] = sums[p][k];
  }
}
}  // namespace

#define RMS_NORM(T, name)                                                                                                      \
  KERNEL(512, 1) rms_norm_forward_##name(const T *x, const T *added, const T *w, T *y, T *sum, float *rstd, u32 d, float eps) {                      \
    forward(x, added, w, y, sum, rstd, d, eps);                                                                                            \
  }                                                                                                                            \
  KERNEL(512, 1)                                                                                                               \
  rms_norm_backward_##name(const T *grad, const T *carried, const T *x, const T *w, const float *rstd, T *dx, float *partial, u32 rows, u32 d) { \
    backward<T, false>(grad, carried, x, w, rstd, dx, partial, rows, d);                                                                \
  }                                                                                                                            \
  KERNEL(512, 1)                                                                                                               \
  rms_norm_backward_weight_##name(const T *grad, const T *carried, const T *x, const T *w, const float *rstd, T *dx, float *partial, u32 rows, \
                                  u32 d) {                                                                                     \
    backward<T, true>(grad, carried, x, w, rstd, dx, partial, rows, d);                                                                 \
  }                                                                                                                            \
  REGISTER(rms_norm_forward_##name)                                                                                            \
  REGISTER(rms_norm_backward_##name)                                                                                           \
  REGISTER(rms_norm_backward_weight_##name)

RMS_NORM(float, f32)
RMS_NORM(bf16, bf16)
