// What several ops need.
#include "../cuda/common.cuh"

namespace {
// Rows that a thread has under way.
constexpr u32 AHEAD = 4;

// sums [gridDim.x, d]: in row b the sum of rows b `stretch` until (b + 1) `stretch` of x [rows, d]. A block's lanes have a pack of columns each, its warps every eighth
// row.
template <typename T> DEVICE void column_sum(const T *x, float *sums, u32 rows, u32 d, u32 stretch) {
  constexpr u32 N = Pack<T>::N;
  __shared__ ColumnSums<N> shared;
  u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, column = (blockIdx.y * WARP + lane) * N;
  bool packed = in_packs(x, d);
  u64 first = u64(blockIdx.x) * stretch, last = least(first + stretch, u64(rows));
  float total[N] = {};
  for (u64 row = first + warp; row < last; row += AHEAD * CHUNK_WARPS) {
    Pack<T> xs[AHEAD];
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++)
      xs[r] = load_row(x + (row + r * CHUNK_WARPS) * d, row + r * CHUNK_WARPS < last ? column : d, d, packed);
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++)
      for (u32 k = 0; k < N; k++) total[k] += to_float(xs[r].x[k]);
  }
  sum_columns(shared, total, sums + u64(blockIdx.x) * d, d);
}
}  // namespace

#define CUDA(T, name)                                                                                             \
  KERNEL(256, 1) column_sum_##name(const T *x, float *sums, u32 rows, u32 d, u32 stretch) {                       \
    column_sum(x, sums, rows, d, stretch);                                                                        \
  }                                                                                                               \
  REGISTER(column_sum_##name)

CUDA(float, f32)
CUDA(bf16, bf16)
