// Around the matrix products of the output head: labelled rows in, losses, gradients out.
#include "../cross_entropy/rows.cuh"

// y [n, d]: the rows `rows` of x. A block a row.
template <typename T> DEVICE void gather(const T *x, const u32 *rows, T *y, u32 d) {
  const T *from = x + u64(rows[blockIdx.x]) * d;
  T *to = y + u64(blockIdx.x) * d;
  bool packed = in_packs(from, d) && in_packs(to, d);
  for (u32 i = threadIdx.x * Pack<T>::N; i < d; i += blockDim.x * Pack<T>::N) store_row(to, i, d, packed, load_row(from, i, d, packed));
}

// Row rows[b] of y, for block b: the sum of those of x [n, d] that members[first[b]..first[b + 1]] names.
template <typename T> DEVICE void scatter(const T *x, const u32 *rows, const u32 *first, const u32 *members, T *y, u32 d) {
  T *to = y + u64(rows[blockIdx.x]) * d;
  for (u32 i = threadIdx.x; i < d; i += blockDim.x) {
    float sum = 0.0f;
    for (u32 m = first[blockIdx.x]; m < first[blockIdx.x + 1]; m++) sum += to_float(x[u64(members[m]) * d + i]);
    to[i] = from_float<T>(sum);
  }
}

#define LINEAR_CROSS_ENTROPY(T, name)                                                                                        \
  KERNEL(256, 1) linear_cross_entropy_gather_##name(const T *x, const u32 *rows, T *y, u32 d) { gather(x, rows, y, d); }    \
  KERNEL(256, 1)                                                                                                              \
  linear_cross_entropy_scatter_##name(const T *x, const u32 *rows, const u32 *first, const u32 *members, T *y, u32 d) {      \
    scatter(x, rows, first, members, y, d);                                                                                   \
  }                                                                                                                           \
  KERNEL(512, 1)                                                                                                              \
  linear_cross_entropy_rows_##name(const float *logits, const u32 *labels, T *grad, double *results, u32 v) {                \
    cross_entropy_row<float>(logits, labels, grad, results, v, true);                                                                \
  }                                                                                                                           \
  REGISTER(linear_cross_entropy_gather_##name)                                                                                \
  REGISTER(linear_cross_entropy_scatter_##name)                                                                               \
  REGISTER(linear_cross_entropy_rows_##name)

LINEAR_CROSS_ENTROPY(float, f32)
LINEAR_CROSS_ENTROPY(bf16, bf16)

KERNEL(256, 1) linear_cross_entropy_sums(const double *results, double *sums, u32 n) { add_results(results, sums, n); }
REGISTER(linear_cross_entropy_sums)
