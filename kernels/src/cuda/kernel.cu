// What several ops need.
#include "../cuda/common.cuh"

// The sum of the rows of x [rows, d] in their order: a block has 32 columns, its warps every eighth row.
template <typename T> DEVICE void column_sum(const T *x, float *sum, u32 rows, u32 d) {
  __shared__ float partial[8][WARP];
  u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, column = blockIdx.x * WARP + lane;
  float total = 0.0f;
  if (column < d)
    for (u64 row = warp; row < rows; row += 8) total += to_float(x[row * d + column]);
  partial[warp][lane] = total;
  __syncthreads();
  if (warp != 0 || column >= d) return;
  total = 0.0f;
  for (u32 i = 0; i < 8; i++) total += partial[i][lane];
  sum[column] = total;
}

KERNEL(256, 1) column_sum_f32(const float *x, float *sum, u32 rows, u32 d) { column_sum(x, sum, rows, d); }
KERNEL(256, 1) column_sum_bf16(const bf16 *x, float *sum, u32 rows, u32 d) { column_sum(x, sum, rows, d); }
REGISTER(column_sum_f32)
REGISTER(column_sum_bf16)
