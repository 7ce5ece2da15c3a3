// Activations and their derivatives.
namespace {
// As activation/cuda.rs numbers them.
constexpr u32 GELU = 0, GELU_TANH = 1, RELU = 2, SILU = 3;

// The standard normal distribution and its density, as in simd.rs.
DEVICE void normal(float x, float &cdf, float &pdf) {
  float bell = __expf(-0.5f * x * x);
  float t = __fdividef(1.0f, fabsf(x) * (0.3275911f * 0.70710678f) + 1.0f);
  float series = t * 1.0614054f - 1.453152f;
  series = t * series + 1.4214137f;
  series = t * series - 0.28449674f;
  series = t * series + 0.2548296f;
  float beyond = 0.5f * t * series * bell;
  cdf = x < 0.0f ? beyond : 1.0f - beyond;
  pdf = 0.3989423f * bell;
}
// (1 + tanh(u)) / 2 = sigmoid(2u) with u = sqrt(2 / pi) (z + 0.044715 z^3), and its derivative in z. Saturated where z is cut, which keeps the cube finite.
DEVICE void tanh_gate(float z, float &gate, float &slope) {
  constexpr float SCALE = 1.5957691f;
  z = z < -16.0f ? -16.0f : z > 16.0f ? 16.0f : z;
  gate = sigmoid(SCALE * (z + 0.044715f * z * z * z));
  slope = gate * (1.0f - gate) * SCALE * (1.0f + 3.0f * 0.044715f * z * z);
}

template <u32 KIND> DEVICE float value(float z) {
  float gate = 0.0f, slope = 0.0f;
  if constexpr (KIND == GELU) normal(z, gate, slope);
  else if constexpr (KIND == GELU_TANH) tanh_gate(z, gate, slope);
  else if constexpr (KIND == SILU) gate = sigmoid(z);
  else return z <= 0.0f ? 0.0f : z;
  return z * gate;
}

template <u32 KIND> DEVICE float derivative(float z, float g) {
  float gate = 0.0f, slope = 0.0f;
  if constexpr (KIND == GELU) normal(z, gate, slope);
  else if constexpr (KIND == GELU_TANH) tanh_gate(z, gate, slope);
  else if constexpr (KIND == SILU) gate = sigmoid(z), slope = gate * (1.0f - gate);
  else return z <= 0.0f ? 0.0f : g;
  return g * (gate + z * slope);
}
}  // namespace
