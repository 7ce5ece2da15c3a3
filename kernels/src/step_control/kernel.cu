// Whether an optimizer steps, and by what its gradients are scaled: one thread.
#include "../cuda/common.cuh"

KERNEL(32, 1) step_control_decide(const double *sum_of_squares, double *steps, double *decision, double clip, double beta1, double beta2) {
  if (threadIdx.x != 0) return;
  double norm = sqrt(sum_of_squares[0]);
  bool go = norm <= 1.7976931348623157e308;
  double taken = steps[0] + (go ? 1.0 : 0.0), limited = clip / (norm + 1e-6);
  steps[0] = taken;
  decision[0] = go ? 1.0 : 0.0;
  decision[1] = clip > 0.0 && limited < 1.0 ? limited : 1.0;
  decision[2] = taken;
  decision[3] = 1.0 - pow(beta1, taken);
  decision[4] = 1.0 - pow(beta2, taken);
  decision[5] = norm;
}
REGISTER(step_control_decide)
