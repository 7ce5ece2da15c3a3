// Between the matrix products of the output head: logits become losses and gradients.
#include "../cross_entropy/rows.cuh"

#define LINEAR_CROSS_ENTROPY(T, name)                                                                             \
  KERNEL(512, 1)                                                                                                  \
  linear_cross_entropy_rows_##name(const float *logits, const u32 *labels, T *grad, double *results, u32 v) {    \
    cross_entropy_row<float>(logits, labels, grad, results, v, true);                                             \
  }                                                                                                               \
  REGISTER(linear_cross_entropy_rows_##name)

LINEAR_CROSS_ENTROPY(float, f32)
LINEAR_CROSS_ENTROPY(bf16, bf16)

KERNEL(256, 1) linear_cross_entropy_sums(const double *results, double *sums, u32 n) { add_results(results, sums, n); }
REGISTER(linear_cross_entropy_sums)
