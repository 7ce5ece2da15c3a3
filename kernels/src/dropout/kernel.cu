// Dropout by the counter-based generator of rng.rs. A thread has a pack of columns in the rows of a tile.
#include "../cuda/common.cuh"

namespace {
// Rows that a thread has under way.
constexpr u32 AHEAD = 2;

DEVICE u64 mix(u64 x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
// The key of row `row` of the stream `key`.
DEVICE u32 row_key(u64 key, u64 row) {
  return u32(mix((key + 0x9e3779b97f4a7c15ull) ^ mix(row + 0x6a09e667f3bcc909ull)) >> 32);
}
DEVICE u32 draw(u32 row_key, u32 column) {
  u32 x = row_key ^ (column * 0x9e3779b9u);
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// y = residual (or nothing) + x masked and scaled; sequence i of n draws from streams[i], its rows counted from its first.
template <typename T>
DEVICE void apply(const T *residual, const T *x, T *y, const u32 *offsets, const i64 *streams, u32 n, u32 rows, u32 d, u32 threshold,
                  float scale) {
  constexpr u32 N = Pack<T>::N;
  __shared__ u32 keys[TILE_ROWS];
  u64 first = u64(blockIdx.x) * TILE_ROWS, last = least(first + TILE_ROWS, u64(rows));
  if (threadIdx.x < last - first) {
    u64 row = first + threadIdx.x;
    u32 sequence = sequence_of(offsets, n, 1, row);
    keys[threadIdx.x] = row_key(u64(streams[sequence]), row - offsets[sequence]);
  }
  __syncthreads();
  u32 column = tile_column<T>();
  if (column >= d) return;
  bool packed = in_packs(x, d) && in_packs(y, d) && in_packs(residual, d);
  for (u64 row = first; row < last; row += AHEAD) {
    Pack<T> xs[AHEAD], rs[AHEAD] = {};
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++) {
      if (row + r >= last) continue;
      xs[r] = load_row(x + (row + r) * d, column, d, packed);
      if (residual != nullptr) rs[r] = load_row(residual + (row + r) * d, column, d, packed);
    }
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++) {
      if (row + r >= last) continue;
      u32 key = keys[row + r - first];
      for (u32 k = 0; k < N; k++) {
        float kept = draw(key, column + k) < threshold ? 0.0f : to_float(xs[r].x[k]) * scale;
        xs[r].x[k] = from_float<T>(to_float(rs[r].x[k]) + kept);
      }
      store_row(y + (row + r) * d, column, d, packed, xs[r]);
    }
  }
}
}  // namespace

#define DROPOUT(T, name)                                                                                                 \
  KERNEL(256, 4)                                                                                                         \
  dropout_##name(const T *residual, const T *x, T *y, const u32 *offsets, const i64 *streams, u32 n, u32 rows, u32 d,    \
                 u32 threshold, float scale) {                                                                           \
    apply(residual, x, y, offsets, streams, n, rows, d, threshold, scale);                                               \
  }                                                                                                                      \
  REGISTER(dropout_##name)

DROPOUT(float, f32)
DROPOUT(bf16, bf16)
