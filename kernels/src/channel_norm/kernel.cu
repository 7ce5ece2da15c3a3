// Each channel normalised over its sequence: block (x, y) has sequence x and 32 channels, its warps every eighth row.
#include "../cuda/common.cuh"

constexpr u32 WARPS = 8;

// The sum of `x` over the block's warps, channel by channel, in every thread.
DEVICE float channel_sum(float x) {
  __shared__ float partial[WARPS][WARP];
  u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  __syncthreads();
  partial[warp][lane] = x;
  __syncthreads();
  x = 0.0f;
  for (u32 i = 0; i < WARPS; i++) x += partial[i][lane];
  return x;
}

template <typename T> DEVICE void forward(const T *x, const T *w, const T *b, const u32 *offsets, T *y, float *stats, u32 c, float eps) {
  u64 first = offsets[blockIdx.x], last = offsets[blockIdx.x + 1];
  u32 channel = blockIdx.y * WARP + threadIdx.x % WARP, warp = threadIdx.x / WARP;
  bool there = channel < c;
  float rows = float(last - first), sum = 0.0f, squares = 0.0f;
  for (u64 row = first + warp; there && row < last; row += WARPS) sum += to_float(x[row * c + channel]);
  sum = channel_sum(sum);
  float mean = last > first ? sum / rows : 0.0f;
  for (u64 row = first + warp; there && row < last; row += WARPS) {
    float away = to_float(x[row * c + channel]) - mean;
    squares += away * away;
  }
  squares = channel_sum(squares);
  float rstd = last > first ? 1.0f / sqrtf(squares / rows + eps) : 0.0f;
  if (!there) return;
  float scale = rstd * to_float(w[channel]), shift = to_float(b[channel]);
  for (u64 row = first + warp; row < last; row += WARPS)
    y[row * c + channel] = from_float<T>((to_float(x[row * c + channel]) - mean) * scale + shift);
  if (warp != 0) return;
  stats[u64(blockIdx.x) * 2 * c + channel] = mean;
  stats[u64(blockIdx.x) * 2 * c + c + channel] = rstd;
}

// And of each sequence its part of the weight's and the bias's gradients: partial [n, 2, c].
template <typename T>
DEVICE void backward(const T *grad, const T *x, const T *w, const float *stats, const u32 *offsets, T *dx, float *partial, u32 c) {
  u64 first = offsets[blockIdx.x], last = offsets[blockIdx.x + 1], at = u64(blockIdx.x) * 2 * c;
  u32 channel = blockIdx.y * WARP + threadIdx.x % WARP, warp = threadIdx.x / WARP;
  bool there = channel < c;
  float mean = there ? stats[at + channel] : 0.0f, rstd = there ? stats[at + c + channel] : 0.0f, along = 0.0f, constant = 0.0f;
  for (u64 row = first + warp; there && row < last; row += WARPS) {
    float g = to_float(grad[row * c + channel]);
    along += g * (to_float(x[row * c + channel]) - mean) * rstd;
    constant += g;
  }
  along = channel_sum(along);
  constant = channel_sum(constant);
  if (!there) return;
  if (warp == 0) {
    partial[at + channel] = along;
    partial[at + c + channel] = constant;
  }
  float rows = float(greatest(last - first, u64(1))), scale = rstd * to_float(w[channel]);
  for (u64 row = first + warp; row < last; row += WARPS) {
    float normal = (to_float(x[row * c + channel]) - mean) * rstd;
    dx[row * c + channel] = from_float<T>(scale * (to_float(grad[row * c + channel]) - constant / rows - normal * (along / rows)));
  }
}

#define CHANNEL_NORM(T, name)                                                                                                              \
  KERNEL(256, 1)                                                                                                                           \
  channel_norm_forward_##name(const T *x, const T *w, const T *b, const u32 *offsets, T *y, float *stats, u32 c, float eps) {              \
    forward(x, w, b, offsets, y, stats, c, eps);                                                                                           \
  }                                                                                                                                        \
  KERNEL(256, 1)                                                                                                                           \
  channel_norm_backward_##name(const T *grad, const T *x, const T *w, const float *stats, const u32 *offsets, T *dx, float *partial, u32 c) { \
    backward(grad, x, w, stats, offsets, dx, partial, c);                                                                                  \
  }                                                                                                                                        \
  REGISTER(channel_norm_forward_##name)                                                                                                    \
  REGISTER(channel_norm_backward_##name)

CHANNEL_NORM(float, f32)
CHANNEL_NORM(bf16, bf16)
