// SwiGLU. A thread makes FLAT_PACKS packs, the block's width apart.
#include "../cuda/common.cuh"

namespace {
template <typename T> DEVICE void forward(const T *gate, const T *up, T *y, u64 n) {
  Pack<T> gates[FLAT_PACKS], ups[FLAT_PACKS];
#pragma unroll
  for (u32 p = 0; p < FLAT_PACKS; p++) {
    gates[p] = load_flat(gate, flat_index<T>(p), n);
    ups[p] = load_flat(up, flat_index<T>(p), n);
  }
#pragma unroll
  for (u32 p = 0; p < FLAT_PACKS; p++) {
    for (u32 k = 0; k < Pack<T>::N; k++) {
      float g = to_float(gates[p].x[k]);
      gates[p].x[k] = from_float<T>(g * sigmoid(g) * to_float(ups[p].x[k]));
    }
    store_flat(y, flat_index<T>(p), n, gates[p]);
  }
}

template <typename T> DEVICE void backward(const T *grad, const T *gate, const T *up, T *dgate, T *dup, u64 n) {
  Pack<T> grads[FLAT_PACKS], gates[FLAT_PACKS], ups[FLAT_PACKS];
#pragma unroll
  for (u32 p = 0; p < FLAT_PACKS; p++) {
    grads[p] = load_flat(grad, flat_index<T>(p), n);
    gates[p] = load_flat(gate, flat_index<T>(p), n);
    ups[p] = load_flat(up, flat_index<T>(p), n);
  }
#pragma unroll
  for (u32 p = 0; p < FLAT_PACKS; p++) {
    for (u32 k = 0; k < Pack<T>::N; k++) {
      float d = to_float(grads[p].x[k]), g = to_float(gates[p].x[k]), u = to_float(ups[p].x[k]), s = sigmoid(g);
      gates[p].x[k] = from_float<T>(d * u * s * (1.0f + g * (1.0f - s)));
      ups[p].x[k] = from_float<T>(d * g * s);
    }
    store_flat(dgate, flat_index<T>(p), n, gates[p]);
    store_flat(dup, flat_index<T>(p), n, ups[p]);
  }
}
}  // namespace

#define SWIGLU(T, name)                                                                                              \
  KERNEL(256, 1) swiglu_forward_##name(const T *gate, const T *up, T *y, u64 n) { forward(gate, up, y, n); }         \
  KERNEL(256, 1)                                                                                                     \
  swiglu_backward_##name(const T *grad, const T *gate, const T *up, T *dgate, T *dup, u64 n) {                       \
    backward(grad, gate, up, dgate, dup, n);                                                                         \
  }                                                                                                                  \
  REGISTER(swiglu_forward_##name)                                                                                    \
  REGISTER(swiglu_backward_##name)

SWIGLU(float, f32)
SWIGLU(bf16, bf16)
