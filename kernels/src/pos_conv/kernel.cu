// Around the matrix products of the positional convolution.
#include "../cuda/common.cuh"

constexpr u32 ROWS = 16;

// windows [groups, rows, width * kernel], of rows first..first + rows: windows[g][t][i * kernel + j] = x[t + j - before, g * width + i], 0 outside t's sequence.
// A block makes ROWS rows of one group from what of x they see, held channel by channel.
template <typename T>
DEVICE void unfold(const T *x, const u32 *offsets, T *windows, u32 n, u32 first, u32 rows, u32 total, u32 d, u32 width, u32 kernel, u32 before) {
  constexpr u32 N = Pack<T>::N;
  DYNAMIC_SHARED(shared);
  T *seen = reinterpret_cast<T *>(shared);
  __shared__ u32 begin[ROWS], end[ROWS];
  u32 group = blockIdx.y, span = ROWS + kernel, row = blockIdx.x * ROWS;
  for (u32 i = threadIdx.x; i < span * width; i += blockDim.x) {
    u32 place = i / width, channel = i % width;
    i64 t = i64(first) + row + place - before;
    bool there = t >= 0 && t < total;
    seen[channel * span + place] = there ? x[u64(t) * d + group * width + channel] : from_float<T>(0.0f);
  }
  if (threadIdx.x < ROWS && row + threadIdx.x < rows) {
    u32 s = sequence_of(offsets, n, 1, u64(first) + row + threadIdx.x);
    begin[threadIdx.x] = offsets[s];
    end[threadIdx.x] = offsets[s + 1];
  }
  __syncthreads();
  u32 window = width * kernel, packs = ceil_div(kernel, N);
  for (u32 r = 0; r < ROWS && row + r < rows; r++) {
    T *to = windows + (u64(group) * rows + row + r) * window;
    i64 t = i64(first) + row + r;
    bool packed = kernel % N == 0 && reinterpret_cast<u64>(to) % 16 == 0;
    for (u32 i = threadIdx.x; i < width * packs; i += blockDim.x) {
      u32 channel = i / packs, j = i % packs * N;
      Pack<T> pack;
      for (u32 k = 0; k < N; k++) {
        i64 at = t + j + k - before;
        bool inside = j + k < kernel && at >= begin[r] && at < end[r];
        pack.x[k] = inside ? seen[channel * span + r + j + k] : from_float<T>(0.0f);
      }
      store_row(to + channel * kernel, j, kernel, packed, pack);
    }
  }
}

// Each row of y [rows, d] becomes `bias`.
template <typename T> DEVICE void fill(const T *bias, T *y, u32 rows, u32 d) {
  u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < u64(rows) * d) y[i] = bias[i % d];
}

// flipped[g * width + i][o][j] = w[g * width + o][i][kernel - 1 - j], both [d, width, kernel]: the weight of the convolution that gives x's gradient.
template <typename T> DEVICE void flip(const T *w, T *flipped, u32 d, u32 width, u32 kernel) {
  u64 at = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= u64(d) * width * kernel) return;
  u32 j = u32(at % kernel), o = u32(at / kernel % width), channel = u32(at / kernel / width);
  u32 group = channel / width, i = channel % width;
  flipped[at] = w[(u64(group * width + o) * width + i) * kernel + (kernel - 1 - j)];
}

#define POS_CONV(T, name)                                                                                                                  \
  KERNEL(256, 1)                                                                                                                           \
  pos_conv_unfold_##name(const T *x, const u32 *offsets, T *windows, u32 n, u32 first, u32 rows, u32 total, u32 d, u32 width, u32 kernel, \
                         u32 before) {                                                                                                     \
    unfold(x, offsets, windows, n, first, rows, total, d, width, kernel, before);                                                          \
  }                                                                                                                                        \
  KERNEL(256, 1) pos_conv_fill_##name(const T *bias, T *y, u32 rows, u32 d) { fill(bias, y, rows, d); }                                    \
  KERNEL(256, 1) pos_conv_flip_##name(const T *w, T *flipped, u32 d, u32 width, u32 kernel) { flip(w, flipped, d, width, kernel); }        \
  REGISTER(pos_conv_unfold_##name)                                                                                                         \
  REGISTER(pos_conv_fill_##name)                                                                                                           \
  REGISTER(pos_conv_flip_##name)

POS_CONV(float, f32)
POS_CONV(bf16, bf16)
