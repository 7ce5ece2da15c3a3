// Frame stacking: the rows of sequences copied to where others' lie. A thread has a pack of columns in the rows of a tile.
#include "../cuda/common.cuh"

namespace {
// Rows that a thread has under way.
constexpr u32 AHEAD = 4;
constexpr u64 NONE = ~u64(0);

// Sequence i is rows from_offsets[i] * from_scale and on of x and to_offsets[i] * to_scale and on of y [rows, d]; where x has no more, y has zeros.
template <typename T>
DEVICE void copy(const T *x, T *y, const u32 *from_offsets, const u32 *to_offsets, u32 n, u32 from_scale, u32 to_scale, u32 rows, u32 d) {
  __shared__ u64 sources[TILE_ROWS];
  u64 first = u64(blockIdx.x) * TILE_ROWS, last = least(first + TILE_ROWS, u64(rows));
  if (threadIdx.x < last - first) {
    u64 row = first + threadIdx.x;
    u32 i = sequence_of(to_offsets, n, to_scale, row);
    u64 source = row - u64(to_offsets[i]) * to_scale + u64(from_offsets[i]) * from_scale;
    sources[threadIdx.x] = source < u64(from_offsets[i + 1]) * from_scale ? source : NONE;
  }
  __syncthreads();
  u32 column = tile_column<T>();
  if (column >= d) return;
  bool packed = in_packs(x, d) && in_packs(y, d);
  for (u64 row = first; row < last; row += AHEAD) {
    Pack<T> xs[AHEAD] = {};
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++) {
      u64 source = row + r < last ? sources[row + r - first] : NONE;
      if (source != NONE) xs[r] = load_row(x + source * d, column, d, packed);
    }
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++)
      if (row + r < last) store_row(y + (row + r) * d, column, d, packed, xs[r]);
  }
}
}  // namespace

#define STACK(T, name)                                                                                                             \
  KERNEL(256, 2)                                                                                                                   \
  stack_##name(const T *x, T *y, const u32 *from_offsets, const u32 *to_offsets, u32 n, u32 from_scale, u32 to_scale, u32 rows,    \
               u32 d) {                                                                                                            \
    copy(x, y, from_offsets, to_offsets, n, from_scale, to_scale, rows, d);                                                        \
  }                                                                                                                                \
  REGISTER(stack_##name)

STACK(float, f32)
STACK(bf16, bf16)
