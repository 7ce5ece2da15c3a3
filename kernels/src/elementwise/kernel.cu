// Sums and multiples. A thread makes FLAT_PACKS packs, the block's width apart.
#include "../cuda/common.cuh"

namespace {
template <typename T> DEVICE void add(const T *a, const T *b, T *y, u64 n) {
  Pack<T> as[FLAT_PACKS], bs[FLAT_PACKS];
#pragma unroll
  for (u32 p = 0; p < FLAT_PACKS; p++) {
    as[p] = load_flat(a, flat_index<T>(p), n);
    bs[p] = load_flat(b, flat_index<T>(p), n);
  }
#pragma unroll
  for (u32 p = 0; p < FLAT_PACKS; p++) {
    for (u32 k = 0; k < Pack<T>::N; k++) as[p].x[k] = from_float<T>(to_float(as[p].x[k]) + to_float(bs[p].x[k]));
    store_flat(y, flat_index<T>(p), n, as[p]);
  }
}

template <typename T> DEVICE void scale(const T *x, T *y, float factor, u64 n) {
  Pack<T> xs[FLAT_PACKS];
#pragma unroll
  for (u32 p = 0; p < FLAT_PACKS; p++) xs[p] = load_flat(x, flat_index<T>(p), n);
#pragma unroll
  for (u32 p = 0; p < FLAT_PACKS; p++) {
    for (u32 k = 0; k < Pack<T>::N; k++) xs[p].x[k] = from_float<T>(factor * to_float(xs[p].x[k]));
    store_flat(y, flat_index<T>(p), n, xs[p]);
  }
}
}  // namespace

#define ELEMENTWISE(T, name)                                                                            \
  KERNEL(256, 1) add_##name(const T *a, const T *b, T *y, u64 n) { add(a, b, y, n); }                   \
  KERNEL(256, 1) scale_##name(const T *x, T *y, float factor, u64 n) { scale(x, y, factor, n); }        \
  REGISTER(add_##name)                                                                                  \
  REGISTER(scale_##name)

ELEMENTWISE(float, f32)
ELEMENTWISE(bf16, bf16)
