// Rows moved about. In tiles a thread has a pack of columns in the rows of a tile; in chunks a block's warps have rows and its lanes a pack of columns each.
#include "../cuda/common.cuh"

namespace {
// Rows that a thread has under way.
constexpr u32 AHEAD = 4;
// Rows of a thread in chunks.
constexpr u32 ROWS = CHUNK_ROWS / CHUNK_WARPS;

// Row i of y [rows, d] is row index[2i + 1] of source index[2i].
template <typename T> DEVICE void gather(const Tensors<T> &sources, const u32 *index, T *y, u32 rows, u32 d) {
  u32 column = tile_column<T>();
  if (column >= d) return;
  bool packed = in_packs(y, d);
  u64 first = u64(blockIdx.x) * TILE_ROWS, last = least(first + TILE_ROWS, u64(rows));
  for (u64 row = first; row < last; row += AHEAD) {
    Pack<T> xs[AHEAD];
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++) {
      if (row + r >= last) continue;
      const T *source = sources.at[index[2 * (row + r)]];
      xs[r] = load_row(source + u64(index[2 * (row + r) + 1]) * d, column, d, in_packs(source, d));
    }
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++)
      if (row + r < last) store_row(y + (row + r) * d, column, d, packed, xs[r]);
  }
}

// Run b: the sum of rows order[runs[3b]] until order[runs[3b + 1]] of x, in their order, becomes row runs[3b + 2] of y.
template <typename T, typename To>
DEVICE void sum_rows(const T *x, const u32 *order, const u32 *runs, To *y, u32 d) {
  constexpr u32 N = Pack<T>::N;
  u32 column = tile_column<T>();
  if (column >= d) return;
  bool packed = in_packs(x, d);
  u32 begin = runs[3 * blockIdx.x], end = runs[3 * blockIdx.x + 1];
  float total[N] = {};
  for (u32 i = begin; i < end; i += AHEAD) {
    Pack<T> xs[AHEAD];
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++)
      if (i + r < end) xs[r] = load_row(x + u64(order[i + r]) * d, column, d, packed);
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++)
      for (u32 k = 0; k < N; k++)
        if (i + r < end) total[k] += to_float(xs[r].x[k]);
  }
  y += u64(runs[3 * blockIdx.x + 2]) * d;
  // Packs of the result may be of another number.
  constexpr u32 M = Pack<To>::N < N ? Pack<To>::N : N;
  for (u32 k = 0; k < N; k += M) {
    Pack<To> sums = {};
    for (u32 m = 0; m < M; m++) sums.x[m] = from_float<To>(total[k + m]);
    if (M == Pack<To>::N) {
      store_row(y, column + k, d, in_packs(y, d), sums);
    } else {
      for (u32 m = 0; m < M; m++)
        if (column + k + m < d) y[column + k + m] = sums.x[m];
    }
  }
}

// y [rows, d]: x with the rows marked in `replaced` overwritten by `with`.
template <typename T> DEVICE void replace(const T *x, const u8 *replaced, const T *with, T *y, u32 rows, u32 d) {
  u32 column = tile_column<T>();
  if (column >= d) return;
  bool packed = in_packs(x, d) && in_packs(y, d);
  Pack<T> other = load_row(with, column, d, in_packs(with, d));
  u64 first = u64(blockIdx.x) * TILE_ROWS, last = least(first + TILE_ROWS, u64(rows));
  for (u64 row = first; row < last; row += AHEAD) {
    Pack<T> xs[AHEAD];
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++) {
      xs[r] = other;
      if (row + r < last && !replaced[row + r]) xs[r] = load_row(x + (row + r) * d, column, d, packed);
    }
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++)
      if (row + r < last) store_row(y + (row + r) * d, column, d, packed, xs[r]);
  }
}

// dx: grad without the rows marked; partial [gridDim.x, d]: the sums of each chunk's marked rows.
template <typename T> DEVICE void replace_backward(const T *grad, const u8 *replaced, T *dx, float *partial, u32 rows, u32 d) {
  constexpr u32 N = Pack<T>::N;
  __shared__ ColumnSums<N> shared;
  Chunk chunk = chunk_of(nullptr, 0, rows, blockIdx.x);
  u32 column = (blockIdx.y * WARP + threadIdx.x % WARP) * N, first = chunk.first + threadIdx.x / WARP * ROWS;
  bool packed = in_packs(grad, d) && in_packs(dx, d);
  Pack<T> gs[ROWS];
  float total[N] = {};
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) gs[r] = load_row(grad + u64(first + r) * d, first + r < chunk.last ? column : d, d, packed);
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) {
    if (first + r >= chunk.last) continue;
    bool marked = replaced[first + r];
    for (u32 k = 0; k < N; k++) {
      if (marked) total[k] += to_float(gs[r].x[k]);
      if (marked) gs[r].x[k] = from_float<T>(0.0f);
    }
    store_row(dx + u64(first + r) * d, column, d, packed, gs[r]);
  }
  sum_columns(shared, total, partial + u64(blockIdx.x) * d, d);
}

// y: x with zeros where `bits` [n, ceil(d / 32)] has a bit for a row's sequence and column.
template <typename T> DEVICE void zero_columns(const T *x, const u32 *offsets, const u32 *bits, T *y, u32 n, u32 rows, u32 d) {
  constexpr u32 N = Pack<T>::N;
  Chunk chunk = chunk_of(offsets, n, rows, blockIdx.x);
  u32 column = (blockIdx.y * WARP + threadIdx.x % WARP) * N, first = chunk.first + threadIdx.x / WARP * ROWS;
  if (column >= d) return;
  bool packed = in_packs(x, d) && in_packs(y, d);
  // A pack lies within a word.
  u32 mine = bits[u64(chunk.sequence) * ceil_div(d, 32) + column / 32] >> column % 32;
  Pack<T> xs[ROWS];
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) xs[r] = load_row(x + u64(first + r) * d, first + r < chunk.last ? column : d, d, packed);
#pragma unroll
  for (u32 r = 0; r < ROWS; r++) {
    for (u32 k = 0; k < N; k++)
      if (mine >> k & 1) xs[r].x[k] = from_float<T>(0.0f);
    if (first + r < chunk.last) store_row(y + u64(first + r) * d, column, d, packed, xs[r]);
  }
}
}  // namespace

#define ROWS_OF(T, name)                                                                                                        \
  KERNEL(256, 2) gather_##name(ARGUMENT Tensors<T> sources, const u32 *index, T *y, u32 rows, u32 d) {                          \
    gather(sources, index, y, rows, d);                                                                                         \
  }                                                                                                                             \
  KERNEL(256, 2) sum_rows_##name##_f32(const T *x, const u32 *order, const u32 *runs, float *y, u32 d) {                        \
    sum_rows(x, order, runs, y, d);                                                                                             \
  }                                                                                                                             \
  KERNEL(256, 2) sum_rows_##name##_bf16(const T *x, const u32 *order, const u32 *runs, bf16 *y, u32 d) {                        \
    sum_rows(x, order, runs, y, d);                                                                                             \
  }                                                                                                                             \
  KERNEL(256, 2) replace_##name(const T *x, const u8 *replaced, const T *with, T *y, u32 rows, u32 d) {                         \
    replace(x, replaced, with, y, rows, d);                                                                                     \
  }                                                                                                                             \
  KERNEL(256, 2) replace_backward_##name(const T *grad, const u8 *replaced, T *dx, float *partial, u32 rows, u32 d) {           \
    replace_backward(grad, replaced, dx, partial, rows, d);                                                                     \
  }                                                                                                                             \
  KERNEL(256, 2)                                                                                                                \
  zero_columns_##name(const T *x, const u32 *offsets, const u32 *bits, T *y, u32 n, u32 rows, u32 d) {                          \
    zero_columns(x, offsets, bits, y, n, rows, d);                                                                              \
  }                                                                                                                             \
  REGISTER(gather_##name)                                                                                                       \
  REGISTER(sum_rows_##name##_f32)                                                                                               \
  REGISTER(sum_rows_##name##_bf16)                                                                                              \
  REGISTER(replace_##name)                                                                                                      \
  REGISTER(replace_backward_##name)                                                                                             \
  REGISTER(zero_columns_##name)

ROWS_OF(float, f32)
ROWS_OF(bf16, bf16)
