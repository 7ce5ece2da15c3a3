// Around the matrix products of a convolution: windows laid out as rows, and their gradients added up again. A warp makes a row.
#include "../cuda/common.cuh"

constexpr u32 WARPS = 8;

// windows [rows, width], rows first..first + rows of all: window of row r is the `window` numbers that begin at row (r - out[s]) stride of sequence s, then zeros.
template <typename T>
DEVICE void unfold(const T *x, const u32 *in, const u32 *out, T *windows, u32 n, u32 first, u32 rows, u32 c_in, u32 stride, u32 window, u32 width) {
  constexpr u32 N = Pack<T>::N;
  u64 row = u64(blockIdx.x) * WARPS + threadIdx.x / WARP;
  if (row >= rows) return;
  u32 s = sequence_of(out, n, 1, first + row);
  const T *from = x + (u64(in[s]) + u64(first + row - out[s]) * stride) * c_in;
  T *to = windows + row * width;
  bool packed = in_packs(from, window) && window == width && reinterpret_cast<u64>(to) % 16 == 0;
  for (u32 i = threadIdx.x % WARP * N; i < width; i += WARP * N) store_row(to, i, width, packed, load_row(from, i, window, packed));
}

// Rows first..first + rows of x's gradient: each the sum, in the order of the taps, of what windows that hold it have of it. grad [.., width] begins with the window of
// row `first_out`.
template <typename T>
DEVICE void fold(const float *grad, const u32 *in, const u32 *out, T *dx, u32 n, u32 first, u32 rows, u32 first_out, u32 c_in, u32 kernel, u32 stride, u32 width) {
  u64 row = u64(blockIdx.x) * WARPS + threadIdx.x / WARP;
  if (row >= rows) return;
  row += first;
  u32 s = sequence_of(in, n, 1, row), t = u32(row - in[s]), count = out[s + 1] - out[s];
  for (u32 c = threadIdx.x % WARP; c < c_in; c += WARP) {
    float sum = 0.0f;
    for (u32 tap = t % stride; tap < kernel && tap <= t; tap += stride) {
      u32 q = (t - tap) / stride;
      if (q < count) sum += grad[(u64(out[s] - first_out) + q) * width + u64(tap) * c_in + c];
    }
    dx[row * c_in + c] = from_float<T>(sum);
  }
}

// y [rows, to]: the rows of x [rows, from], cut off or followed by zeros.
template <typename T> DEVICE void widen(const T *x, T *y, u32 rows, u32 from, u32 to) {
  u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= u64(rows) * to) return;
  u64 row = i / to, column = i % to;
  y[i] = column < from ? x[row * from + column] : from_float<T>(0.0f);
}

#define CONV1D(T, name)                                                                                                                     \
  KERNEL(256, 1)                                                                                                                            \
  conv1d_unfold_##name(const T *x, const u32 *in, const u32 *out, T *windows, u32 n, u32 first, u32 rows, u32 c_in, u32 stride, u32 window, \
                       u32 width) {                                                                                                         \
    unfold(x, in, out, windows, n, first, rows, c_in, stride, window, width);                                                               \
  }                                                                                                                                         \
  KERNEL(256, 1)                                                                                                                            \
  conv1d_fold_##name(const float *grad, const u32 *in, const u32 *out, T *dx, u32 n, u32 first, u32 rows, u32 first_out, u32 c_in, u32 kernel,  \
                     u32 stride, u32 width) {                                                                                               \
    fold(grad, in, out, dx, n, first, rows, first_out, c_in, kernel, stride, width);                                                        \
  }                                                                                                                                         \
  KERNEL(256, 1) conv1d_widen_##name(const T *x, T *y, u32 rows, u32 from, u32 to) { widen(x, y, rows, from, to); }                         \
  REGISTER(conv1d_unfold_##name)                                                                                                            \
  REGISTER(conv1d_fold_##name)                                                                                                              \
  REGISTER(conv1d_widen_##name)

CONV1D(float, f32)
CONV1D(bf16, bf16)
