// Rows divided by their norm. A block makes a row; each of its threads holds up to PACKS packs of it, so a row is read once.
#include "../cuda/common.cuh"

namespace {
template <typename T, u32 PACKS> DEVICE void forward(const T *w, T *y, float *norms, u32 d, float eps) {
  constexpr u32 N = Pack<T>::N;
  u64 row = blockIdx.x;
  w += row * d;
  y += row * d;
  bool packed = in_packs(w, d) && in_packs(y, d);
  Pack<T> kept[PACKS];
  float sum = 0.0f;
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) kept[p] = load_row(w, (p * blockDim.x + threadIdx.x) * N, d, packed);
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) {
    for (u32 k = 0; k < N; k++) sum += to_float(kept[p].x[k]) * to_float(kept[p].x[k]);
  }
  float norm = sqrtf(block_sum(sum)), scale = 1.0f / (norm <= eps ? eps : norm);
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) {
    for (u32 k = 0; k < N; k++) kept[p].x[k] = from_float<T>(to_float(kept[p].x[k]) * scale);
    store_row(y, (p * blockDim.x + threadIdx.x) * N, d, packed, kept[p]);
  }
  if (threadIdx.x == 0) norms[row] = norm;
}

template <typename T, u32 PACKS> DEVICE void backward(const T *grad, const T *w, const float *norms, T *dw, u32 d, float eps) {
  constexpr u32 N = Pack<T>::N;
  u64 row = blockIdx.x;
  grad += row * d;
  w += row * d;
  dw += row * d;
  bool packed = in_packs(grad, d) && in_packs(w, d) && in_packs(dw, d);
  Pack<T> gs[PACKS], ws[PACKS];
  float along = 0.0f;
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) {
    u32 i = (p * blockDim.x + threadIdx.x) * N;
    gs[p] = load_row(grad, i, d, packed);
    ws[p] = load_row(w, i, d, packed);
  }
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) {
    for (u32 k = 0; k < N; k++) along += to_float(gs[p].x[k]) * to_float(ws[p].x[k]);
  }
  // Below eps the divisor is a constant, so nothing flows through the norm.
  float norm = norms[row], scale = 1.0f / (norm <= eps ? eps : norm);
  along = block_sum(along) * scale * scale;
  if (norm <= eps) along = 0.0f;
#pragma unroll
  for (u32 p = 0; p < PACKS; p++) {
    for (u32 k = 0; k < N; k++)
      gs[p].x[k] = from_float<T>((to_float(gs[p].x[k]) - to_float(ws[p].x[k]) * along) * scale);
    store_row(dw, (p * blockDim.x + threadIdx.x) * N, d, packed, gs[p]);
  }
}
}  // namespace

#define ROW_NORMALIZE(T, name, PACKS)                                                                                              \
  KERNEL(512, 1) row_normalize_forward_##name(const T *w, T *y, float *norms, u32 d, float eps) {                                  \
    forward<T, PACKS>(w, y, norms, d, eps);                                                                                        \
  }                                                                                                                                \
  KERNEL(512, 1) row_normalize_backward_##name(const T *grad, const T *w, const float *norms, T *dw, u32 d, float eps) {           \
    backward<T, PACKS>(grad, w, norms, dw, d, eps);                                                                                \
  }                                                                                                                                \
  REGISTER(row_normalize_forward_##name)                                                                                           \
  REGISTER(row_normalize_backward_##name)

ROW_NORMALIZE(float, narrow_f32, 2)
ROW_NORMALIZE(float, wide_f32, ROW_PACKS)
ROW_NORMALIZE(bf16, narrow_bf16, 2)
ROW_NORMALIZE(bf16, wide_bf16, ROW_PACKS)
