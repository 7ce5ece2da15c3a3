// Cross-entropy of a few classes: a block a row.
#include "rows.cuh"

KERNEL(256, 1) cross_entropy_f32(const float *x, const u32 *labels, float *p, double *results, u32 c) {
  cross_entropy_row<double>(x, labels, p, results, c, false);
}
KERNEL(256, 1) cross_entropy_bf16(const bf16 *x, const u32 *labels, float *p, double *results, u32 c) {
  cross_entropy_row<double>(x, labels, p, results, c, false);
}
KERNEL(256, 1) cross_entropy_sums(const double *results, double *sums, u32 n) { add_results(results, sums, n); }

// The gradient of the logits from their probabilities p [n, c]; a thread a number.
KERNEL(256, 1) cross_entropy_backward(const float *p, const u32 *labels, float *grad, u32 n, u32 c) {
  u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < u64(n) * c) grad[i] = p[i] - (i % c == labels[i / c] ? 1.0f : 0.0f);
}

REGISTER(cross_entropy_f32)
REGISTER(cross_entropy_bf16)
REGISTER(cross_entropy_sums)
REGISTER(cross_entropy_backward)
