// One step of stochastic gradient descent, a thread a parameter.
#include "../cuda/common.cuh"

// `buffer` and `compute` may be null.
template <typename G>
DEVICE void step(float *master, float *buffer, const G *grad, bf16 *compute, u64 n, float lr, float momentum, float decay, float grad_scale) {
  u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float p = master[i], direction = to_float(grad[i]) * grad_scale + decay * p;
  if (buffer != nullptr) {
    direction += momentum * buffer[i];
    buffer[i] = direction;
  }
  p -= lr * direction;
  master[i] = p;
  if (compute != nullptr) compute[i] = from_float<bf16>(p);
}

#define SGD(G, name)                                                                                                            \
  KERNEL(256, 4)                                                                                                                \
  sgd_step_##name(float *master, float *buffer, const G *grad, bf16 *compute, const double *decision, u64 n, float lr, float momentum, float decay,    \
                  float grad_scale) {                                                                                           \
    if (decision != nullptr && decision[0] == 0.0) return;                                                                      \
    step(master, buffer, grad, compute, n, lr, momentum, decay, decision != nullptr ? float(decision[1]) : grad_scale);                                                    \
  }                                                                                                                             \
  REGISTER(sgd_step_##name)

SGD(float, f32)
SGD(bf16, bf16)
