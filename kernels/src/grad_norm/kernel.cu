// The sum of squares in f64.
#include "../cuda/common.cuh"

// The sum over the block's threads, in thread 0.
DEVICE double block_total(double x) {
  __shared__ double partial[256];
  partial[threadIdx.x] = x;
  __syncthreads();
  for (u32 half = 128; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  return partial[0];
}

// partial[first + block]: the sum over every gridDim.x-th piece of x [n].
template <typename T> DEVICE void squares(const T *x, double *partial, u32 first, u64 n) {
  constexpr u32 N = Pack<T>::N;
  double sum = 0.0;
  bool packed = reinterpret_cast<u64>(x) % 16 == 0;
  for (u64 i = (u64(blockIdx.x) * 256 + threadIdx.x) * N; i < n; i += u64(gridDim.x) * 256 * N) {
    if (packed && i + N <= n) {
      Pack<T> pack = load_pack(x + i);
      for (u32 k = 0; k < N; k++) sum += double(to_float(pack.x[k])) * double(to_float(pack.x[k]));
    } else {
      for (u64 k = i; k < least(i + N, n); k++) sum += double(to_float(x[k])) * double(to_float(x[k]));
    }
  }
  sum = block_total(sum);
  if (threadIdx.x == 0) partial[first + blockIdx.x] = sum;
}

KERNEL(256, 1) grad_norm_squares_f32(const float *x, double *partial, u32 first, u64 n) { squares(x, partial, first, n); }
KERNEL(256, 1) grad_norm_squares_bf16(const bf16 *x, double *partial, u32 first, u64 n) { squares(x, partial, first, n); }
KERNEL(256, 1) grad_norm_total(const double *partial, double *total, u32 n) {
  double sum = 0.0;
  for (u32 i = threadIdx.x; i < n; i += 256) sum += partial[i];
  sum = block_total(sum);
  if (threadIdx.x == 0) total[0] = sum;
}
REGISTER(grad_norm_squares_f32)
REGISTER(grad_norm_squares_bf16)
REGISTER(grad_norm_total)
