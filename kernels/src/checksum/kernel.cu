// Checksums: a sum over words of two elements each, modulo 2^64.
#include "../cuda/common.cuh"

DEVICE u32 f32_bits(float x) { return as_bits(x); }
DEVICE u32 f32_bits(bf16 x) { return u32(x.bits) << 16; }

// SplitMix64's finaliser, as `rng::mix`, of the word and its place.
DEVICE u64 term(u32 low, u32 high, u64 i) {
  u64 x = (u64(high) << 32 | u64(low)) + (i + 1) * 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Adds to sums[which] the terms of every gridDim.x-th piece of x [n]. Integers: the order of the blocks does not matter.
template <typename T> DEVICE void checksum(const T *x, i64 *sums, u32 which, u64 n) {
  constexpr u32 N = Pack<T>::N;
  u64 sum = 0;
  bool packed = reinterpret_cast<u64>(x) % 16 == 0;
  for (u64 i = (u64(blockIdx.x) * 256 + threadIdx.x) * N; i < n; i += u64(gridDim.x) * 256 * N) {
    if (packed && i + N <= n) {
      Pack<T> pack = load_pack(x + i);
      for (u32 k = 0; k < N; k += 2) sum += term(f32_bits(pack.x[k]), f32_bits(pack.x[k + 1]), (i + k) / 2);
    } else {
      for (u64 k = i; k < least(i + N, n); k += 2) sum += term(f32_bits(x[k]), k + 1 < n ? f32_bits(x[k + 1]) : 0, k / 2);
    }
  }
  __shared__ u64 partial[256];
  partial[threadIdx.x] = sum;
  __syncthreads();
  for (u32 half = 128; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) atomicAdd(reinterpret_cast<u64 *>(sums) + which, partial[0]);
}

KERNEL(256, 1) checksum_f32(const float *x, i64 *sums, u32 which, u64 n) { checksum(x, sums, which, n); }
KERNEL(256, 1) checksum_bf16(const bf16 *x, i64 *sums, u32 which, u64 n) { checksum(x, sums, which, n); }
REGISTER(checksum_f32)
REGISTER(checksum_bf16)
