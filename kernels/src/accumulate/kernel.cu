// sum += x and sum = 0: a thread has four numbers.
#include "../cuda/common.cuh"

template <typename T> DEVICE void add(float *sum, const T *x, u64 n) {
  u64 i = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
  if (reinterpret_cast<u64>(sum) % 16 == 0 && i + 4 <= n) {
    Pack<float> sums = *reinterpret_cast<Pack<float> *>(sum + i);
#pragma unroll
    for (u32 k = 0; k < 4; k++) sums.x[k] += to_float(x[i + k]);
    store_pack(sum + i, sums);
    return;
  }
  for (u64 k = i; k < least(i + 4, n); k++) sum[k] += to_float(x[k]);
}

KERNEL(256, 4) accumulate_add_f32(float *sum, const float *x, u64 n) { add(sum, x, n); }
KERNEL(256, 4) accumulate_add_bf16(float *sum, const bf16 *x, u64 n) { add(sum, x, n); }
KERNEL(256, 4) accumulate_zero(float *sum, u64 n) {
  u64 i = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
  if (reinterpret_cast<u64>(sum) % 16 == 0 && i + 4 <= n) {
    store_pack(sum + i, Pack<float>{});
    return;
  }
  for (u64 k = i; k < least(i + 4, n); k++) sum[k] = 0.0f;
}

REGISTER(accumulate_add_f32)
REGISTER(accumulate_add_bf16)
REGISTER(accumulate_zero)
