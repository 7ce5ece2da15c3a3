// Tiles of bf16 in shared memory and their products on tensor cores by `mma.sync`.
//
// A tile has rows of D numbers, in chunks of 16 bytes. Chunk c of row r lies where chunk c ^ (r % 8) would: the same chunk of eight rows, which is
// what one matrix is loaded from, covers all banks. Rows of a block begin at multiples of 8, its chunks at even ones.
//
// What does not multiply takes a tile's layout as a type: `Rows` here, `Panels` in wgmma.cuh.

namespace attention {
// 2^x, to a few units in the last place.
DEVICE float exp2_fast(float x) {
#ifdef ECHAT_EMULATE
  return exp2f_approx(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// Rows one after the other.
template <u32 D> struct Rows {
  static constexpr u32 WIDTH = D;
  static DEVICE u32 at(u32 row, u32 chunk) { return row * D + (chunk ^ (row % 8)) * 8; }
};

// Begins copying rows of dh numbers; zeros beyond them, and beyond `count` rows.
template <typename Layout, u32 ROWS, u32 THREADS> DEVICE void load_tile(bf16 *tile, const bf16 *rows, u64 stride, u32 count, u32 dh) {
  constexpr u32 CHUNKS = Layout::WIDTH / 8, STEP = THREADS / CHUNKS;
  static_assert(ROWS % STEP == 0, "every thread copies as much");
  u32 chunk = threadIdx.x % CHUNKS, row = threadIdx.x / CHUNKS;
  const bf16 *from = rows + row * stride + chunk * 8;
#pragma unroll
  for (u32 i = 0; i < ROWS; i += STEP)
    copy_async_16(tile + Layout::at(row + i, chunk), from + i * stride, row + i < count && chunk * 8 < dh);
}

// An address in shared memory, 32 bits of it on a GPU.
#ifdef ECHAT_EMULATE
using Address = u64;
DEVICE Address address_of(const bf16 *p) { return reinterpret_cast<u64>(p); }
DEVICE const bf16 *at_address(Address a) { return reinterpret_cast<const bf16 *>(a); }
DEVICE void forget(u32 &) {}
#else
using Address = u32;
DEVICE Address address_of(const bf16 *p) { return u32(__cvta_generic_to_shared(p)); }
DEVICE const bf16 *at_address(Address a) { return reinterpret_cast<const bf16 *>(__cvta_shared_to_generic(a)); }
// What follows from it is worked out again: registers are scarcer than arithmetic.
DEVICE void forget(u32 &a) { asm volatile("" : "+r"(a)); }
#endif

// Where a lane's part of the blocks of a tile begins: the operand a of a product, or (transposed) b of two, which are its columns' halves.
template <u32 D> DEVICE Address blocks_of(const bf16 *tile) {
  u32 lane = threadIdx.x % WARP;
  forget(lane);
  return address_of(tile) + lane % 16 * 2 * D + ((lane / 16) ^ (lane % 8)) * 16;
}
// The same for b of two products whose columns are the tile's rows: r[0], r[1] for the first eight.
template <u32 D> DEVICE Address rows_of(const bf16 *tile) {
  u32 lane = threadIdx.x % WARP;
  forget(lane);
  return address_of(tile) + (lane % 8 + lane / 16 * 8) * 2 * D + ((lane / 8 % 2) ^ (lane % 8)) * 16;
}
// The 16 x 16 block at a row and a chunk. Tiles begin at multiples of 128 bytes, so that the chunk within eight is flipped in the address.
template <u32 D, bool TRANSPOSED> DEVICE void load_block(u32 (&r)[4], Address tile, u32 row, u32 chunk) {
  load_matrices<TRANSPOSED>(r, at_address((tile ^ (chunk % 8 * 16)) + row * 2 * D + chunk / 8 * 128));
}

// Rows that a warp multiplies by: 16 M of D numbers from its first, held in registers or loaded again for each product.
template <u32 D, u32 M, bool HELD> struct Operand {
  Address rows;
  u32 held[HELD ? M : 1][HELD ? D / 16 : 1][4];

  DEVICE Operand(const bf16 *tile, u32 first) : rows(blocks_of<D>(tile + first * D)) {}
  // Once the tile has arrived.
  DEVICE void hold() {
    if constexpr (HELD) {
#pragma unroll
      for (u32 m = 0; m < M; m++)
#pragma unroll
        for (u32 k = 0; k < D / 16; k++) load_block<D, false>(held[m][k], rows, 16 * m, 2 * k);
    }
  }
  DEVICE void get(u32 (&a)[4], u32 m, u32 k) const {
    if constexpr (HELD) {
#pragma unroll
      for (u32 i = 0; i < 4; i++) a[i] = held[m][k][i];
    } else {
      load_block<D, false>(a, rows, 16 * m, 2 * k);
    }
  }
};

template <u32 M, u32 N> DEVICE void clear(float (&x)[M][N][4]) {
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 n = 0; n < N; n++)
#pragma unroll
      for (u32 i = 0; i < 4; i++) x[m][n][i] = 0.0f;
}

// s = own rows times the first 8 N rows of `other`: dot products.
template <u32 D, u32 M, u32 N, bool HELD>
DEVICE void dot_products(float (&s)[M][N][4], const Operand<D, M, HELD> &own, const bf16 *other) {
  Address rows = rows_of<D>(other);
  clear(s);
#pragma unroll
  for (u32 k = 0; k < D / 16; k++) {
    u32 a[M][4];
#pragma unroll
    for (u32 m = 0; m < M; m++) own.get(a[m], m, k);
#pragma unroll
    for (u32 n = 0; n < N; n += 2) {
      u32 b[4];
      load_block<D, false>(b, rows, 8 * n, 2 * k);
#pragma unroll
      for (u32 m = 0; m < M; m++) {
        mma_16x8x16(s[m][n], a[m], b[0], b[1]);
        mma_16x8x16(s[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Products as the operand of others: their columns are those products' depth.
template <u32 M, u32 N> DEVICE void pack(u32 (&p)[M][N / 2][4], const float (&s)[M][N][4]) {
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 n = 0; n < N; n++)
#pragma unroll
      for (u32 half = 0; half < 2; half++) p[m][n / 2][n % 2 * 2 + half] = pack_bf16(s[m][n][2 * half], s[m][n][2 * half + 1]);
}

// sums += the first 16 K rows of `other`, weighted by p.
template <u32 D, u32 M, u32 K> DEVICE void add_weighted(float (&sums)[M][D / 8][4], const u32 (&p)[M][K][4], const bf16 *other) {
  Address rows = blocks_of<D>(other);
#pragma unroll
  for (u32 k = 0; k < K; k++)
#pragma unroll
    for (u32 n = 0; n < D / 8; n += 2) {
      u32 b[4];
      load_block<D, true>(b, rows, 16 * k, n);
#pragma unroll
      for (u32 m = 0; m < M; m++) {
        mma_16x8x16(sums[m][n], p[m][k], b[0], b[1]);
        mma_16x8x16(sums[m][n + 1], p[m][k], b[2], b[3]);
      }
    }
}

// Writes a warp's rows where they belong, by way of its rows from `first` of a tile that no other warp uses. Half i of block m is scaled by
// scale[m][i].
template <typename Layout, u32 M>
DEVICE void store_rows(bf16 *rows, u64 stride, u32 count, u32 dh, bf16 *tile, u32 first, const float (&sums)[M][Layout::WIDTH / 8][4],
                       const float (&scale)[M][2]) {
  constexpr u32 D = Layout::WIDTH;
  u32 lane = threadIdx.x % WARP;
  __syncwarp();
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 n = 0; n < D / 8; n++)
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        u32 pair = pack_bf16(sums[m][n][2 * i] * scale[m][i], sums[m][n][2 * i + 1] * scale[m][i]);
        *reinterpret_cast<u32 *>(tile + Layout::at(first + 16 * m + 8 * i + lane / 4, n) + 2 * (lane % 4)) = pair;
      }
  __syncwarp();
#pragma unroll
  for (u32 i = 0; i < M * D / 16; i++) {
    u32 row = (i * WARP + lane) / (D / 8), chunk = lane % (D / 8);
    if (row < count && chunk * 8 < dh)
      store_pack(rows + row * stride + chunk * 8, *reinterpret_cast<const Pack<bf16> *>(tile + Layout::at(first + row, chunk)));
  }
}
}  // namespace attention
