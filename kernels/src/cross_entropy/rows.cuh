// Softmax cross-entropy of rows of logits; of a few classes and of a vocabulary alike.
#pragma once
#include "../cuda/common.cuh"

DEVICE float exponential(float x) { return expf(x); }
DEVICE double exponential(double x) { return exp(x); }

// What a thread knows of the part of a row it has seen: its greatest logit, and the sum of exp(x - greatest) as A.
template <typename A> struct Softmax {
  float greatest;
  A sum;
};

template <typename A> DEVICE Softmax<A> joined(Softmax<A> a, Softmax<A> b) {
  float greatest = fmaxf(a.greatest, b.greatest);
  // Where both are empty exp(-inf - -inf) must not be asked for.
  A from_a = a.greatest == greatest ? A(1) : exponential(A(a.greatest) - A(greatest));
  A from_b = b.greatest == greatest ? A(1) : exponential(A(b.greatest) - A(greatest));
  return Softmax<A>{greatest, a.sum * from_a + b.sum * from_b};
}

// The same for the whole block, in every thread.
template <typename A> DEVICE Softmax<A> block_joined(Softmax<A> mine) {
  __shared__ float greatest[32];
  __shared__ A sums[32];
  u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  for (u32 step = 16; step > 0; step /= 2)
    mine = joined(mine, Softmax<A>{__shfl_xor_sync(ALL, mine.greatest, step), __shfl_xor_sync(ALL, mine.sum, step)});
  __syncthreads();
  if (lane == 0) {
    greatest[warp] = mine.greatest;
    sums[warp] = mine.sum;
  }
  __syncthreads();
  Softmax<A> all{greatest[0], sums[0]};
  for (u32 i = 1; i < warps; i++) all = joined(all, Softmax<A>{greatest[i], sums[i]});
  return all;
}

// A block makes row blockIdx.x of x [n, c]: `out` is its softmax, less 1 at the label if `gradient` (the gradient of the loss), and `result` its
// loss -ln p(label) and whether the label is the first of the greatest logits. `out` may be x. Exponentials are taken and summed as A.
template <typename A, typename T, typename U>
DEVICE void cross_entropy_row(const T *x, const u32 *labels, U *out, double *result, u32 c, bool gradient) {
  u64 row = blockIdx.x;
  x += row * c;
  out += row * c;
  u32 label = labels[row];
  float target = to_float(x[label]);
  Softmax<A> mine{-INFINITY, A(0)};
  bool wrong = false;
  for (u32 i = threadIdx.x; i < c; i += blockDim.x) {
    float v = to_float(x[i]);
    wrong |= v > target || (v == target && i < label);
    // A NaN must reach the sum, whatever the greatest is.
    float greatest = fmaxf(mine.greatest, v);
    A kept = mine.greatest == greatest ? mine.sum : mine.sum * exponential(A(mine.greatest) - A(greatest));
    mine = Softmax<A>{greatest, kept + (v == greatest ? A(1) : exponential(A(v) - A(greatest)))};
  }
  Softmax<A> all = block_joined(mine);
  float votes = block_sum(wrong ? 1.0f : 0.0f);
  A scale = A(1) / all.sum;
  for (u32 i = threadIdx.x; i < c; i += blockDim.x) {
    float v = to_float(x[i]);
    float p = float((v == all.greatest ? A(1) : exponential(A(v) - A(all.greatest))) * scale);
    out[i] = from_float<U>(gradient && i == label ? p - 1.0f : p);
  }
  if (threadIdx.x == 0) {
    result[2 * row] = log(double(all.sum)) + double(all.greatest) - double(target);
    result[2 * row + 1] = votes == 0.0f ? 1.0 : 0.0;
  }
}

// Adds the rows of results [n, 2] to `sums` [2], in one block of 256 threads.
DEVICE void add_results(const double *results, double *sums, u32 n) {
  __shared__ double partial[256][2];
  double loss = 0.0, correct = 0.0;
  for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
    loss += results[2 * i];
    correct += results[2 * i + 1];
  }
  partial[threadIdx.x][0] = loss;
  partial[threadIdx.x][1] = correct;
  __syncthreads();
  if (threadIdx.x >= 2) return;
  double sum = 0.0;
  for (u32 i = 0; i < 256; i++) sum += partial[i][threadIdx.x];
  sums[threadIdx.x] += sum;
}
