// What all kernels share: types, conversions, vector access, reductions, tensor-core and copy instructions.
//
// No other header is included, so that NVRTC compiles a kernel anywhere; with ECHAT_EMULATE the same source is host C++ (emulate.h),
// in which tests run every kernel without a GPU.
//
// Conventions. A kernel is `KERNEL(threads, min_blocks) name_dtype(arguments)` and is listed once with `REGISTER(name_dtype)`. Blocks have a
// multiple of 32 threads, all in x. Results never depend on the order in which blocks run: atomics are of integers alone.
#pragma once

#ifdef ECHAT_EMULATE
#include "emulate.h"
#else
using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using i32 = int;
using u64 = unsigned long long;
using i64 = long long;
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define REGISTER(name)
// The block's shared memory whose size is given at launch.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) u8 name[]
#define DEVICE __device__ __forceinline__
#ifndef INFINITY  // NVRTC has no math.h.
#define INFINITY __int_as_float(0x7f800000)
#endif
// An argument that is a struct, read where it lies.
#define ARGUMENT const __grid_constant__
#endif

constexpr u32 WARP = 32;
constexpr u32 ALL = 0xffffffffu;

// ---- Numbers ----

// Stored as its bits: half the size of a float, the same range.
struct alignas(2) bf16 {
  u16 bits;
};

DEVICE float as_float(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 as_bits(float x) { return __float_as_uint(x); }

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return as_float(u32(x.bits) << 16); }

template <typename T> DEVICE T from_float(float x);
template <> DEVICE float from_float<float>(float x) { return x; }
// To the nearest, ties to even.
template <> DEVICE bf16 from_float<bf16>(float x) {
#ifdef ECHAT_EMULATE
  u32 bits = as_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return bf16{0x7fff};
  return bf16{u16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#else
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#endif
}

// Two of them in a register: `low` in the lower half.
DEVICE u32 pack_bf16(float low, float high) {
#ifdef ECHAT_EMULATE
  return u32(from_float<bf16>(low).bits) | u32(from_float<bf16>(high).bits) << 16;
#else
  u32 y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
#endif
}
DEVICE float low_half(u32 pair) { return as_float(pair << 16); }
DEVICE float high_half(u32 pair) { return as_float(pair & 0xffff0000u); }

DEVICE u32 ceil_div(u32 a, u32 b) { return (a + b - 1) / b; }
template <typename T> DEVICE T least(T a, T b) { return a < b ? a : b; }
template <typename T> DEVICE T greatest(T a, T b) { return a > b ? a : b; }

// 1 / (1 + e^-x), within a millionth (absolutely).
DEVICE float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// ---- Memory ----

// 16 bytes of T.
template <typename T> struct alignas(16) Pack {
  static constexpr u32 N = 16 / sizeof(T);
  T x[N];
};
// Halves stay in the words they were read in until one is wanted: the compiler takes an array of them apart at once, and so waits for each load before the next.
struct Halves {
  u32 words[4];
  struct Half {
    u32 &word;
    u32 shift;
    DEVICE operator bf16() const { return bf16{u16(word >> shift)}; }
    DEVICE Half &operator=(bf16 x) {
      word = (word & ~(0xffffu << shift)) | u32(x.bits) << shift;
      return *this;
    }
    DEVICE Half &operator=(const Half &x) { return *this = bf16(x); }
  };
  DEVICE bf16 operator[](u32 k) const { return bf16{u16(words[k / 2] >> 16 * (k % 2))}; }
  DEVICE Half operator[](u32 k) { return Half{words[k / 2], 16 * (k % 2)}; }
};
template <> struct alignas(16) Pack<bf16> {
  static constexpr u32 N = 8;
  Halves x;
};

// Reads 16 aligned bytes that no one writes meanwhile.
template <typename T> DEVICE Pack<T> load_pack(const T *p) {
  Pack<T> pack;
#ifdef ECHAT_EMULATE
  pack = *reinterpret_cast<const Pack<T> *>(p);
#else
  u32 *r = reinterpret_cast<u32 *>(&pack);
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "l"(p));
#endif
  return pack;
}
template <typename T> DEVICE void store_pack(T *p, const Pack<T> &pack) { *reinterpret_cast<Pack<T> *>(p) = pack; }

// Packs of a row that a thread holds at most; `row_threads` of cuda/mod.rs goes by it.
constexpr u32 ROW_PACKS = 4;

// Whether rows of `d` numbers beginning at `p` can be read in packs.
template <typename T> DEVICE bool in_packs(const T *p, u32 d) {
  return d % Pack<T>::N == 0 && reinterpret_cast<u64>(p) % 16 == 0;
}
// Numbers i, i + 1, ... of a row of `d`, zeros past its end; in one piece if `packed`.
template <typename T> DEVICE Pack<T> load_row(const T *row, u32 i, u32 d, bool packed) {
  if (packed && i < d) return load_pack(row + i);
  Pack<T> pack;
  for (u32 k = 0; k < Pack<T>::N; k++) pack.x[k] = i + k < d ? row[i + k] : from_float<T>(0.0f);
  return pack;
}
// pack += other, rounded.
template <typename T> DEVICE void add_pack(Pack<T> &pack, const Pack<T> &other) {
  for (u32 k = 0; k < Pack<T>::N; k++) pack.x[k] = from_float<T>(to_float(pack.x[k]) + to_float(other.x[k]));
}
template <typename T> DEVICE void store_row(T *row, u32 i, u32 d, bool packed, const Pack<T> &pack) {
  if (packed) {
    if (i < d) store_pack(row + i, pack);
    return;
  }
  for (u32 k = 0; k < Pack<T>::N; k++)
    if (i + k < d) row[i + k] = pack.x[k];
}


// Numbers i, i + 1, ... of `n` beginning at `p`, zeros past their end; in one piece where they are aligned.
template <typename T> DEVICE Pack<T> load_flat(const T *p, u64 i, u64 n) {
  constexpr u32 N = Pack<T>::N;
  if (i + N <= n && reinterpret_cast<u64>(p) % 16 == 0) return load_pack(p + i);
  Pack<T> pack;
#pragma unroll
  for (u32 k = 0; k < N; k++) pack.x[k] = i + k < n ? p[i + k] : from_float<T>(0.0f);
  return pack;
}
template <typename T> DEVICE void store_flat(T *p, u64 i, u64 n, const Pack<T> &pack) {
  constexpr u32 N = Pack<T>::N;
  if (i + N <= n && reinterpret_cast<u64>(p) % 16 == 0) return store_pack(p + i, pack);
#pragma unroll
  for (u32 k = 0; k < N; k++)
    if (i + k < n) p[i + k] = pack.x[k];
}

// Packs of a thread that goes over numbers without regard to rows (`flat` of cuda/mod.rs), and where the p-th of them begins.
constexpr u32 FLAT_PACKS = 2;
template <typename T> DEVICE u64 flat_index(u32 p) {
  return ((u64(blockIdx.x) * FLAT_PACKS + p) * blockDim.x + threadIdx.x) * Pack<T>::N;
}

// Tensors as one argument, `Call::tensors`.
constexpr u32 MAX_TENSORS = 64;
template <typename T> struct Tensors { T *at[MAX_TENSORS]; };

// ---- Rows in tiles: block (x, y) makes rows x TILE_ROWS and on of the columns that `column` gives each thread (`tiles` of cuda/mod.rs) ----

constexpr u32 TILE_ROWS = 8;
// The first column of this thread's pack; none if beyond the row.
template <typename T> DEVICE u32 tile_column() { return (blockIdx.y * blockDim.x + threadIdx.x) * Pack<T>::N; }

// ---- Sequences: `offsets` [n + 1], sequence i being rows offsets[i] until offsets[i + 1] ----

// The sequence of row `row`, where each of theirs counts as `scale`.
DEVICE u32 sequence_of(const u32 *offsets, u32 n, u32 scale, u64 row) {
  u32 low = 0, high = n;
  while (high - low > 1) {
    u32 middle = low + (high - low) / 2;
    if (u64(offsets[middle]) * scale <= row) low = middle;
    else high = middle;
  }
  return low;
}

// At most CHUNK_ROWS rows of one sequence, counted from its beginning, so that what a sequence gives does not depend on its neighbours.
constexpr u32 CHUNK_ROWS = 32;
struct Chunk {
  u32 sequence, first, last;
};
// Chunks are numbered from offsets[i] / CHUNK_ROWS + i in sequence i: some numbers have no rows. Their count is `chunks` of cuda/mod.rs.
DEVICE u32 first_chunk(const u32 *offsets, u32 i) { return offsets[i] / CHUNK_ROWS + i; }
// Chunk `number`. Without offsets all of `rows` are one sequence.
DEVICE Chunk chunk_of(const u32 *offsets, u32 n, u32 rows, u32 number) {
  if (offsets == nullptr) return Chunk{0, number * CHUNK_ROWS, least(rows, (number + 1) * CHUNK_ROWS)};
  u32 low = 0, high = n;
  while (high - low > 1) {
    u32 middle = low + (high - low) / 2;
    if (first_chunk(offsets, middle) <= number) low = middle;
    else high = middle;
  }
  u32 end = offsets[low + 1], first = offsets[low] + (number - first_chunk(offsets, low)) * CHUNK_ROWS;
  return Chunk{low, least(first, end), least(first + CHUNK_ROWS, end)};
}

// ---- Reductions, the same in every thread afterwards and from run to run ----

DEVICE float warp_sum(float x) {
#pragma unroll
  for (u32 step = 16; step > 0; step /= 2) x += __shfl_xor_sync(ALL, x, step);
  return x;
}
DEVICE float warp_max(float x) {
#pragma unroll
  for (u32 step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, step));
  return x;
}

// Sums `x` over the block, whose threads must all call it.
DEVICE float block_sum(float x) {
  __shared__ float partial[32];
  u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  x = warp_sum(x);
  __syncthreads();
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  return warp_sum(lane < blockDim.x / WARP ? partial[lane] : 0.0f);
}
// Sums `a` and `b` at once.
DEVICE void block_sum2(float &a, float &b) {
  __shared__ float partial[2][32];
  u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  a = warp_sum(a);
  b = warp_sum(b);
  __syncthreads();
  if (lane == 0) {
    partial[0][warp] = a;
    partial[1][warp] = b;
  }
  __syncthreads();
  a = warp_sum(lane < blockDim.x / WARP ? partial[0][lane] : 0.0f);
  b = warp_sum(lane < blockDim.x / WARP ? partial[1][lane] : 0.0f);
}
// The greatest `x` of the block, in the same way. NaN is passed over.
DEVICE float block_max(float x) {
  __shared__ float partial[32];
  u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  x = warp_max(x);
  __syncthreads();
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  return warp_max(lane < blockDim.x / WARP ? partial[lane] : -INFINITY);
}

// Sums of columns by a block of eight warps, each lane having a pack of columns of those of blockIdx.y. Padded: they are written a pack apart and read in order.
constexpr u32 CHUNK_WARPS = 8;
template <u32 N> struct ColumnSums {
  static constexpr u32 PITCH = WARP + WARP / N;
  float at[CHUNK_WARPS][N * PITCH];
};
// Writes the sums over the warps of `total` to their columns of `sums` [d]. Who calls it again gives another `shared`, and the first after that.
template <u32 N> DEVICE void sum_columns(ColumnSums<N> &shared, const float (&total)[N], float *sums, u32 d) {
  constexpr u32 PITCH = ColumnSums<N>::PITCH;
  for (u32 k = 0; k < N; k++) shared.at[threadIdx.x / WARP][k * PITCH + threadIdx.x % WARP] = total[k];
  __syncthreads();
  for (u32 i = threadIdx.x; i < WARP * N; i += blockDim.x) {
    u32 column = blockIdx.y * WARP * N + i;
    float sum = 0.0f;
    for (u32 w = 0; w < CHUNK_WARPS; w++) sum += shared.at[w][i % N * PITCH + i / N];
    if (column < d) sums[column] = sum;
  }
}

// ---- Tensor cores (sm_80 and later) ----

// d += a b for a 16 x 16 and b 16 x 8 in bf16, accumulated in f32 (mma.sync m16n8k16). With g = lane / 4 and t = lane % 4 a thread holds
//   a: rows g, g + 8, g, g + 8 at columns 2t, 2t, 2t + 8, 2t + 8 (and the next column each);
//   b: rows 2t (and the next) and 2t + 8 (and the next) of column g;  d: rows g, g, g + 8, g + 8 at columns 2t, 2t + 1, 2t, 2t + 1.
DEVICE void mma_16x8x16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef ECHAT_EMULATE
  emulated_mma(d, a, b0, b1);
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Four 8 x 8 matrices of bf16 from shared memory: lane 8 i + r gives the address of row r (16 bytes, aligned) of matrix i. The thread gets of
// each matrix the elements (row lane / 4, columns 2 (lane % 4) and the next); transposed: (rows 2 (lane % 4) and the next, column lane / 4).
template <bool TRANSPOSED> DEVICE void load_matrices(u32 (&r)[4], const bf16 *row) {
#ifdef ECHAT_EMULATE
  emulated_ldmatrix<TRANSPOSED>(r, row);
#else
  u32 address = u32(__cvta_generic_to_shared(row));
  if constexpr (TRANSPOSED) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
#endif
}

// Begins copying 16 bytes from global to shared memory, both aligned; zeros instead if not `wanted`. Complete after the thread that began it has waited
// and the block has met.
DEVICE void copy_async_16(void *shared, const void *global, bool wanted) {
#ifdef ECHAT_EMULATE
  emulated_copy_async(shared, global, wanted);
#else
  u32 address = u32(__cvta_generic_to_shared(shared)), bytes = wanted ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
#endif
}
// Ends a group of copies.
DEVICE void copy_async_commit() {
#ifdef ECHAT_EMULATE
  emulated_copy_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most the N newest groups are under way.
template <int N> DEVICE void copy_async_wait() {
#ifdef ECHAT_EMULATE
  emulated_copy_wait(N);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
