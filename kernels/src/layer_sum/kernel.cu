// The weighted sum over layers. A block has a chunk of one sequence's rows: its warps rows, its lanes a pack of columns each, through all layers.
#include "../cuda/common.cuh"

namespace {
// Rows of a thread.
constexpr u32 ROWS = CHUNK_ROWS / CHUNK_WARPS;

// The softmax of `count` raw weights, at most MAX_TENSORS, by the first warp for all of the block.
DEVICE void softmax(const float *raw, u32 count, float *weights) {
  if (threadIdx.x < WARP) {
    u32 one = threadIdx.x, two = one + WARP;
    float a = one < count ? raw[one] : -INFINITY, b = two < count ? raw[two] : -INFINITY;
    float top = warp_max(fmaxf(a, b));
    a = expf(a - top);
    b = expf(b - top);
    float sum = warp_sum(a + b);
    weights[one] = a / sum;
    weights[two] = b / sum;
  }
  __syncthreads();
}

// sum [rows, d] and, if `partial` is given, the sums of each layer's rows of each chunk: partial [count, gridDim.x, d].
template <typename T>
DEVICE void forward(const Tensors<T> &layers, const float *raw, const u32 *offsets, T *sum, float *partial, u32 count, u32 n, u32 rows, u32 d) {
  constexpr u32 N = Pack<T>::N;
  __shared__ float weights[MAX_TENSORS];
  __shared__ ColumnSums<N> shared[2];
  softmax(raw, count, weights);
  Chunk chunk = chunk_of(offsets, n, rows, blockIdx.x);
  u32 column = (blockIdx.y * WARP + threadIdx.x % WARP) * N, first = chunk.first + threadIdx.x / WARP * ROWS;
  float total[ROWS][N] = {};
#pragma unroll 1
  for (u32 l = 0; l < count; l++) {
    const T *layer = layers.at[l];
    bool packed = in_packs(layer, d);
    Pack<T> xs[ROWS];
#pragma unroll
    for (u32 r = 0; r < ROWS; r++)
      xs[r] = load_row(layer + u64(first + r) * d, first + r < chunk.last ? column : d, d, packed);
    float w = weights[l], of_layer[N] = {};
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
      for (u32 k = 0; k < N; k++) {
        float x = to_float(xs[r].x[k]);
        total[r][k] += w * x;
        of_layer[k] += x;
      }
    }
    if (partial != nullptr) sum_columns(shared[l % 2], of_layer, partial + (u64(l) * gridDim.x + blockIdx.x) * d, d);
  }
  bool packed = in_packs(sum, d);
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) {
    Pack<T> y;
    for (u32 k = 0; k < N; k++) y.x[k] = from_float<T>(total[r][k]);
    if (first + r < chunk.last) store_row(sum + u64(first + r) * d, column, d, packed, y);
  }
}

// From grad [rows, d] and grad_means [count, n, d], which may both be missing: the layers' gradients, if `d_layers` has any, and in `dots`, if given,
// each block's part of the softmaxed weights': [gridDim.x * gridDim.y, count]. Its chunks disregard the sequences, so that this does not depend on them.
template <typename T>
DEVICE void backward(const Tensors<T> &layers, const Tensors<T> &d_layers, const float *raw, const u32 *offsets, const T *grad,
                     const T *grad_means, float *dots, u32 count, u32 n, u32 rows, u32 d) {
  constexpr u32 N = Pack<T>::N;
  __shared__ float weights[MAX_TENSORS], partial[MAX_TENSORS][CHUNK_WARPS];
  softmax(raw, count, weights);
  Chunk chunk = chunk_of(nullptr, 0, rows, blockIdx.x);
  u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, column = (blockIdx.y * WARP + lane) * N, first = chunk.first + warp * ROWS;
  u32 sequences[ROWS], last_sequence = 0;
#pragma unroll
  for (u32 r = 0; r < ROWS; r++)
    sequences[r] = last_sequence = grad_means != nullptr ? sequence_of(offsets, n, 1, least(first + r, rows - 1)) : 0;
  Pack<T> gs[ROWS] = {};
  bool packed = in_packs(grad, d);
#pragma unroll
  for (u32 r = 0; r < ROWS; r++)
    if (grad != nullptr) gs[r] = load_row(grad + u64(first + r) * d, first + r < chunk.last ? column : d, d, packed);
#pragma unroll 1
  for (u32 l = 0; l < count; l++) {
    if (dots != nullptr) {
      const T *layer = layers.at[l];
      packed = in_packs(layer, d);
      float dot = 0.0f;
      Pack<T> xs[ROWS];
#pragma unroll
      for (u32 r = 0; r < ROWS; r++)
        xs[r] = load_row(layer + u64(first + r) * d, first + r < chunk.last ? column : d, d, packed);
#pragma unroll
      for (u32 r = 0; r < ROWS; r++)
        for (u32 k = 0; k < N; k++) dot += to_float(gs[r].x[k]) * to_float(xs[r].x[k]);
      dot = warp_sum(dot);
      if (lane == 0) partial[l][warp] = dot;
    }
    T *d_layer = d_layers.at[l];
    if (d_layer == nullptr) continue;
    packed = in_packs(d_layer, d);
    // Mostly one sequence.
#pragma unroll 1
    for (u32 i = sequences[0]; i <= last_sequence; i++) {
      Pack<T> mean = {};
      float w = weights[l], scale = 0.0f;
      if (grad_means != nullptr) {
        mean = load_row(grad_means + (u64(l) * n + i) * d, column, d, in_packs(grad_means, d));
        scale = 1.0f / float(greatest(offsets[i + 1] - offsets[i], 1u));
      }
#pragma unroll
      for (u32 r = 0; r < ROWS; r++) {
        Pack<T> y;
        for (u32 k = 0; k < N; k++) y.x[k] = from_float<T>(w * to_float(gs[r].x[k]) + scale * to_float(mean.x[k]));
        if (first + r < chunk.last && sequences[r] == i) store_row(d_layer + u64(first + r) * d, column, d, packed, y);
      }
    }
  }
  __syncthreads();
  if (dots == nullptr || threadIdx.x >= count) return;
  float sum = 0.0f;
  for (u32 i = 0; i < CHUNK_WARPS; i++) sum += partial[threadIdx.x][i];
  dots[(u64(blockIdx.y) * gridDim.x + blockIdx.x) * count + threadIdx.x] = sum;
}
}  // namespace

// raw_grad_l = w_l (grad_l - sum_m w_m grad_m) with w the softmax of `raw`. One warp.
KERNEL(32, 1) layer_sum_through_softmax(const float *raw, const float *grad, float *raw_grad, u32 count) {
  __shared__ float weights[MAX_TENSORS];
  softmax(raw, count, weights);
  float mean = 0.0f;
  for (u32 l = threadIdx.x; l < count; l += WARP) mean += weights[l] * grad[l];
  mean = warp_sum(mean);
  for (u32 l = threadIdx.x; l < count; l += WARP) raw_grad[l] = weights[l] * (grad[l] - mean);
}
REGISTER(layer_sum_through_softmax)

#define LAYER_SUM(T, name)                                                                                                                 \
  KERNEL(256, 3)                                                                                                                           \
  layer_sum_forward_##name(ARGUMENT Tensors<T> layers, const float *raw, const u32 *offsets, T *sum, float *partial, u32 count, u32 n,     \
                           u32 rows, u32 d) {                                                                                              \
    forward(layers, raw, offsets, sum, partial, count, n, rows, d);                                                                        \
  }                                                                                                                                        \
  KERNEL(256, 2)                                                                                                                           \
  layer_sum_backward_##name(ARGUMENT Tensors<T> layers, ARGUMENT Tensors<T> d_layers, const float *raw, const u32 *offsets, const T *grad, \
                            const T *grad_means, float *dots, u32 count, u32 n, u32 rows, u32 d) {                                         \
    backward(layers, d_layers, raw, offsets, grad, grad_means, dots, count, n, rows, d);                                                   \
  }                                                                                                                                        \
  REGISTER(layer_sum_forward_##name)                                                                                                       \
  REGISTER(layer_sum_backward_##name)

LAYER_SUM(float, f32)
LAYER_SUM(bf16, bf16)
