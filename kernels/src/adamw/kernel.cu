// One AdamW step: a thread makes four parameters at a time, which are read and written once.
#include "../cuda/common.cuh"

// The step's constants, computed by the host in f64.
struct Constants {
  float grad_scale, keep, beta2, one_minus_beta1, one_minus_beta2, step_size, root_correction2, eps;
};

DEVICE void update(float &p, float &m, float &v, float g, const Constants &c) {
  g *= c.grad_scale;
  m += (g - m) * c.one_minus_beta1;
  v = v * c.beta2 + g * g * c.one_minus_beta2;
  p = p * c.keep - c.step_size * m / (sqrtf(v) / c.root_correction2 + c.eps);
}

// The constants with what `decision` (step_control) says of the step in place; as they are without one.
DEVICE Constants decided(Constants c, const double *decision) {
  if (decision == nullptr) return c;
  c.grad_scale = float(decision[1]);
  c.step_size = float(double(c.step_size) / decision[3]);
  c.root_correction2 = float(sqrt(decision[4]));
  return c;
}

// `compute` may be null.
template <typename G> DEVICE void step(float *master, float *m, float *v, const G *grad, bf16 *compute, u64 n, const Constants &c) {
  u64 aligned = reinterpret_cast<u64>(master) | reinterpret_cast<u64>(m) | reinterpret_cast<u64>(v);
  u64 i = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
  if (i >= n) return;
  if (aligned % 16 == 0 && i + 4 <= n) {
    Pack<float> ps = *reinterpret_cast<Pack<float> *>(master + i), ms = *reinterpret_cast<Pack<float> *>(m + i), vs = *reinterpret_cast<Pack<float> *>(v + i);
#pragma unroll
    for (u32 k = 0; k < 4; k++) update(ps.x[k], ms.x[k], vs.x[k], to_float(grad[i + k]), c);
    store_pack(master + i, ps);
    store_pack(m + i, ms);
    store_pack(v + i, vs);
    for (u32 k = 0; compute != nullptr && k < 4; k++) compute[i + k] = from_float<bf16>(ps.x[k]);
    return;
  }
  for (u64 k = i; k < least(i + 4, n); k++) {
    update(master[k], m[k], v[k], to_float(grad[k]), c);
    if (compute != nullptr) compute[k] = from_float<bf16>(master[k]);
  }
}

#define ADAMW(G, name)                                                                                                              \
  KERNEL(256, 4)                                                                                                                    \
  adamw_step_##name(float *master, float *m, float *v, const G *grad, bf16 *compute, const double *decision, u64 n, float grad_scale, float keep,          \
                    float beta2, float one_minus_beta1, float one_minus_beta2, float step_size, float root_correction2, float eps) { \
    if (decision != nullptr && decision[0] == 0.0) return;                                                                          \
    step(master, m, v, grad, compute, n,                                                                                            \
         decided(Constants{grad_scale, keep, beta2, one_minus_beta1, one_minus_beta2, step_size, root_correction2, eps}, decision));                   \
  }                                                                                                                                 \
  REGISTER(adamw_step_##name)

ADAMW(float, f32)
ADAMW(bf16, bf16)
