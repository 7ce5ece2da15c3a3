// Means over sequences. A block has a chunk of one sequence's rows: its warps rows, its lanes a pack of columns each.
#include "../cuda/common.cuh"

namespace {
// Rows of a thread.
constexpr u32 ROWS = CHUNK_ROWS / CHUNK_WARPS;

// partial [gridDim.x, d]: the sums of the chunks' rows.
template <typename T> DEVICE void chunk_sums(const T *x, const u32 *offsets, float *partial, u32 n, u32 rows, u32 d) {
  constexpr u32 N = Pack<T>::N;
  __shared__ ColumnSums<N> shared;
  Chunk chunk = chunk_of(offsets, n, rows, blockIdx.x);
  u32 column = (blockIdx.y * WARP + threadIdx.x % WARP) * N, first = chunk.first + threadIdx.x / WARP * ROWS;
  bool packed = in_packs(x, d);
  Pack<T> xs[ROWS];
  float total[N] = {};
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) xs[r] = load_row(x + u64(first + r) * d, first + r < chunk.last ? column : d, d, packed);
#pragma unroll
  for (u32 r = 0; r < ROWS; r++)
    for (u32 k = 0; k < N; k++) total[k] += to_float(xs[r].x[k]);
  sum_columns(shared, total, partial + u64(blockIdx.x) * d, d);
}

// means [layers, n, d] from partial [layers, chunks, d]: a block has 128 columns of sequence blockIdx.x and layer blockIdx.z.
template <typename T> DEVICE void finish(const float *partial, const u32 *offsets, T *means, u32 n, u32 chunks, u32 d) {
  u32 i = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
  if (column >= d) return;
  u32 len = offsets[i + 1] - offsets[i], count = ceil_div(len, CHUNK_ROWS);
  partial += (u64(blockIdx.z) * chunks + first_chunk(offsets, i)) * d + column;
  float sum = 0.0f;
#pragma unroll 8
  for (u32 c = 0; c < count; c++) sum += partial[u64(c) * d];
  means[(u64(blockIdx.z) * n + i) * d + column] = from_float<T>(sum / float(greatest(len, 1u)));
}

// Each row of dx [rows, d] is its sequence's of grad [n, d], divided by the sequence's length.
template <typename T> DEVICE void backward(const T *grad, const u32 *offsets, T *dx, u32 n, u32 rows, u32 d) {
  constexpr u32 N = Pack<T>::N;
  Chunk chunk = chunk_of(offsets, n, rows, blockIdx.x);
  u32 column = (blockIdx.y * WARP + threadIdx.x % WARP) * N, first = chunk.first + threadIdx.x / WARP * ROWS;
  bool packed = in_packs(grad, d) && in_packs(dx, d);
  Pack<T> g = load_row(grad + u64(chunk.sequence) * d, column, d, packed);
  float len = float(greatest(offsets[chunk.sequence + 1] - offsets[chunk.sequence], 1u));
  for (u32 k = 0; k < N; k++) g.x[k] = from_float<T>(to_float(g.x[k]) / len);
#pragma unroll
  for (u32 r = 0; r < ROWS; r++)
    if (first + r < chunk.last) store_row(dx + u64(first + r) * d, column, d, packed, g);
}
}  // namespace

#define MEAN_POOL(T, name)                                                                                               \
  KERNEL(256, 2)                                                                                                         \
  mean_pool_partial_##name(const T *x, const u32 *offsets, float *partial, u32 n, u32 rows, u32 d) {                     \
    chunk_sums(x, offsets, partial, n, rows, d);                                                                         \
  }                                                                                                                      \
  KERNEL(128, 1)                                                                                                         \
  mean_pool_finish_##name(const float *partial, const u32 *offsets, T *means, u32 n, u32 chunks, u32 d) {                \
    finish(partial, offsets, means, n, chunks, d);                                                                       \
  }                                                                                                                      \
  KERNEL(256, 1)                                                                                                         \
  mean_pool_backward_##name(const T *grad, const u32 *offsets, T *dx, u32 n, u32 rows, u32 d) {                          \
    backward(grad, offsets, dx, n, rows, d);                                                                             \
  }                                                                                                                      \
  REGISTER(mean_pool_partial_##name)                                                                                     \
  REGISTER(mean_pool_finish_##name)                                                                                      \
  REGISTER(mean_pool_backward_##name)

MEAN_POOL(float, f32)
MEAN_POOL(bf16, bf16)
