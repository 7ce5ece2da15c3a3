// CUDA's language on the host, as much of it as the kernels use, so that tests run them without a GPU.
//
// A block's threads are fibers of one thread of the host: each runs until it waits for its warp or its block, and a warp until all of it waits for the block:
// warps run as far ahead of each other as they may. Blocks with an odd number run their threads last to first, so that what one thread reads of another without waiting differs from what it expects. Asynchronous copies arrive at the last
// moment. Shared memory begins as NaN in every block. What is not aligned as its type wants it ends the program (a trap). Products of warpgroups end at the last moment too; what they read may not change until then, was to be made visible to them,
// and a warpgroup's threads must all ask for the same ones.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using i32 = int32_t;
using u64 = unsigned long long;
using i64 = long long;

struct bf16;
template <typename T> struct Tensors;

#define DEVICE inline
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define ARGUMENT const
// Of one block at a time on this thread of the host, and the same for all its fibers.
#define __shared__ static thread_local
#define KERNEL(threads, blocks) static void
#define DYNAMIC_SHARED(name) u8 *name = emulator::shared_memory()

struct Index3 {
  u32 x, y, z;
};
extern thread_local Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
u8 *shared_memory();
// Waits for all threads of the warp, or of the block, that have not ended.
void wait_warp();
void wait_block();
// 64 bytes of each lane that the whole warp may read.
u8 *exchange(u32 lane);
// Begins this thread's next exchange of 8 bytes: of two places in turn, so that who is ahead does not overwrite what others still read.
u32 next_turn();
u8 *turned(u32 turn, u32 lane);
// Ends the program unless `p` is a multiple of 16.
void expect_aligned(const void *p);
void copy_async(void *to, const void *from, bool wanted);
void copy_commit();
void copy_wait(int newest);
// wgmma, by the PTX ISA: a thread's part of a product of its warpgroup, of 64 rows, n columns and a depth of 16. Its place in `sums` is NaN until the product was waited
// for. `a` is null where that operand too is in shared memory; `columns`: the depth of b runs down its rows.
void wgmma(float *sums, u32 n, const u32 *a, u64 a_descriptor, u64 b_descriptor, bool add, bool columns);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int newest);
void proxy_fence();
// Shared memory's own address of p.
u32 shared_address(const void *p);

// What an argument is, for comparison with what the caller gives.
template <typename T> struct Kind;
#define ECHAT_KIND(type, number) \
  template <> struct Kind<type> { static constexpr u32 value = number; };
ECHAT_KIND(u32, 1)
ECHAT_KIND(i32, 2)
ECHAT_KIND(float, 3)
ECHAT_KIND(u64, 4)
ECHAT_KIND(i64, 5)
ECHAT_KIND(double, 6)
template <typename T> struct Pointee;
template <> struct Pointee<float> { static constexpr u32 value = 11; };
template <> struct Pointee<bf16> { static constexpr u32 value = 12; };
template <> struct Pointee<u32> { static constexpr u32 value = 13; };
template <> struct Pointee<i64> { static constexpr u32 value = 14; };
template <> struct Pointee<u8> { static constexpr u32 value = 15; };
template <> struct Pointee<double> { static constexpr u32 value = 16; };
template <typename T> struct Kind<T *> { static constexpr u32 value = Pointee<T>::value; };
template <typename T> struct Kind<Tensors<T>> { static constexpr u32 value = 10 + Pointee<T>::value; };
template <typename T> struct Kind<const T *> { static constexpr u32 value = Pointee<T>::value; };
#undef ECHAT_KIND

struct Kernel {
  void (*run)(void *const *args);
  const u32 *kinds;
  u32 count;
};
void add(const char *name, Kernel kernel);

template <auto F> struct Entry;
template <typename... A, void (*F)(A...)> struct Entry<F> {
  template <size_t... I> static void call(void *const *args, std::index_sequence<I...>) { F(*static_cast<A *>(args[I])...); }
  static void run(void *const *args) { call(args, std::index_sequence_for<A...>{}); }
  static constexpr u32 kinds[sizeof...(A)] = {Kind<A>::value...};
  static bool add_as(const char *name) {
    emulator::add(name, Kernel{run, kinds, sizeof...(A)});
    return true;
  }
};

template <typename T> T shuffle(T value, u32 from) {
  static_assert(sizeof(T) <= 8);
  u32 turn = next_turn();
  std::memcpy(turned(turn, threadIdx.x % 32), &value, sizeof(T));
  wait_warp();
  std::memcpy(&value, turned(turn, from % 32), sizeof(T));
  return value;
}
}  // namespace emulator

#define REGISTER(name) static const bool registered_##name = emulator::Entry<name>::add_as(#name);

inline void __syncthreads() { emulator::wait_block(); }
inline void __syncwarp(u32 = ~0u) { emulator::wait_warp(); }
template <typename T> T __shfl_sync(u32, T x, u32 lane) { return emulator::shuffle(x, lane); }
template <typename T> T __shfl_xor_sync(u32, T x, u32 mask) { return emulator::shuffle(x, (threadIdx.x % 32) ^ mask); }
template <typename T> T __shfl_up_sync(u32, T x, u32 by) {
  u32 lane = threadIdx.x % 32;
  return emulator::shuffle(x, lane < by ? lane : lane - by);
}
template <typename T> T __shfl_down_sync(u32, T x, u32 by) {
  u32 lane = threadIdx.x % 32;
  return emulator::shuffle(x, lane + by > 31 ? lane : lane + by);
}

inline float __uint_as_float(u32 bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline u32 __float_as_uint(float x) {
  u32 bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline u64 clock64() { return 0; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float exp2f_approx(float x) { return std::exp2(x); }
// Whether any lane has it.
inline int __any_sync(u32, int x) {
  for (u32 step = 1; step < 32; step *= 2) x |= __shfl_xor_sync(~0u, x, step);
  return x;
}
// Blocks run one after the other.
inline u64 atomicAdd(u64 *p, u64 x) {
  u64 old = *p;
  *p = old + x;
  return old;
}
inline u32 __umulhi(u32 a, u32 b) { return u32((uint64_t(a) * b) >> 32); }
inline u64 __umul64hi(u64 a, u64 b) { return u64((static_cast<unsigned __int128>(a) * b) >> 64); }

inline float emulated_bf16(u16 bits) { return __uint_as_float(u32(bits) << 16); }

inline void emulated_mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, words[6] = {a[0], a[1], a[2], a[3], b0, b1};
  float mine[12];
  for (u32 i = 0; i < 12; i++) mine[i] = emulated_bf16(u16(words[i / 2] >> (16 * (i % 2))));
  std::memcpy(emulator::exchange(lane), mine, sizeof mine);
  emulator::wait_warp();
  // Element k of a lane's row or column lies with lane k % 8 / 2 of the four that share it.
  float rows[2][16], columns[2][16];
  for (u32 from = 0; from < 4; from++) {
    float row[12], column[2][12];
    std::memcpy(row, emulator::exchange(4 * g + from), sizeof row);
    for (u32 c = 0; c < 2; c++) std::memcpy(column[c], emulator::exchange(4 * (2 * t + c) + from), sizeof column[c]);
    for (u32 k = 0; k < 4; k++) {
      u32 at = 2 * from + k % 2 + k / 2 * 8;
      for (u32 half = 0; half < 2; half++) rows[half][at] = row[2 * (half + k / 2 * 2) + k % 2];
      for (u32 c = 0; c < 2; c++) columns[c][at] = column[c][8 + 2 * (k / 2) + k % 2];
    }
  }
  for (u32 i = 0; i < 4; i++)
    for (u32 k = 0; k < 16; k++) d[i] += rows[i / 2][k] * columns[i % 2][k];
  emulator::wait_warp();
}

template <bool TRANSPOSED> void emulated_ldmatrix(u32 (&r)[4], const void *row) {
  u32 lane = threadIdx.x % 32;
  emulator::expect_aligned(row);
  std::memcpy(emulator::exchange(lane), &row, sizeof row);
  emulator::wait_warp();
  for (u32 i = 0; i < 4; i++) {
    auto element = [&](u32 row, u32 column) {
      const u16 *p;
      std::memcpy(&p, emulator::exchange(8 * i + row), sizeof p);
      return u32(p[column]);
    };
    u32 one = lane / 4, two = 2 * (lane % 4);
    r[i] = TRANSPOSED ? element(two, one) | element(two + 1, one) << 16 : element(one, two) | element(one, two + 1) << 16;
  }
  emulator::wait_warp();
}

inline void emulated_copy_async(void *to, const void *from, bool wanted) { emulator::copy_async(to, from, wanted); }
inline void emulated_copy_commit() { emulator::copy_commit(); }
inline void emulated_copy_wait(int newest) { emulator::copy_wait(newest); }
