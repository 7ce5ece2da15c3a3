// The gradient of queries on tensor cores.
//
// As in the forward pass a block has 4 warps of 16 M queries each, and keys and values come in two stages of K; scores are made for C of them at a
// time. Each query's gradient's dot product with its output, which the gradient of keys needs too, is made here.

namespace attention {
// Writes each of a warp's queries' `delta`, to shared memory too: zero beyond the last.
template <typename Layout, u32 M>
DEVICE void make_delta(float *mean, float *delta, const bf16 *out, const bf16 *gs, const Problem &p, const Place &place, u32 own) {
  constexpr u32 D = Layout::WIDTH, CHUNKS = D / 8;
  u32 lane = threadIdx.x % WARP, chunk = lane % CHUNKS, count = place.lq - place.first;
  u64 q_row = u64(place.q_start) + place.first, stride = u64(p.h) * p.dh;
  out += q_row * stride + place.head * p.dh + chunk * 8;
#pragma unroll 4
  for (u32 i = 0; i < M * D / 16; i++) {
    u32 row = own + (i * WARP + lane) / CHUNKS;
    float along = 0.0f;
    if (row < count && chunk * 8 < p.dh) {
      Pack<bf16> o = load_pack(out + row * stride), g = *reinterpret_cast<const Pack<bf16> *>(gs + Layout::at(row, chunk));
      for (u32 k = 0; k < 8; k++) along += to_float(o.x[k]) * to_float(g.x[k]);
    }
#pragma unroll
    for (u32 step = 1; step < CHUNKS; step *= 2) along += __shfl_xor_sync(ALL, along, step);
    if (chunk == 0) mean[row] = along;
    if (chunk == 0 && row < count) delta[u64(place.head) * p.tq + q_row + row] = along;
  }
  __syncwarp();
}

// What is taken from the scores of a warp's queries.
template <u32 M> DEVICE void load_bases(float (&base)[M][2], const float *lse, u32 own, u32 count) {
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
      u32 at = own + 16 * m + 8 * i + threadIdx.x % WARP / 4;
      base[m][i] = at < count ? base_of(lse[at]) : INFINITY;
    }
}

// Turns scores, unseen ones -infinity, into probabilities.
template <u32 M, u32 N> DEVICE void exponentiate(float (&s)[M][N][4], const float (&base)[M][2], float scale) {
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 n = 0; n < N; n++)
#pragma unroll
      for (u32 e = 0; e < 4; e++) s[m][n][e] = exp2_fast(s[m][n][e] * scale - base[m][e / 2]);
}

// Turns probabilities and the gradients d of kept ones into the gradients of scores.
template <u32 M, u32 N, bool DROPOUT>
DEVICE void score_gradients_of_rows(float (&s)[M][N][4], const float (&d)[M][N][4], const float (&mean)[M][2], const u32 (&row_keys)[M][2], u32 k0,
                            const Problem &p) {
  u32 column = k0 + 2 * (threadIdx.x % 4);
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 n = 0; n < N; n++)
#pragma unroll
      for (u32 e = 0; e < 4; e++) {
        float of_kept = d[m][n][e];
        if constexpr (DROPOUT) of_kept = dropped(row_keys[m][e / 2], column + 8 * n + e % 2, p.threshold) ? 0.0f : of_kept * p.kept;
        s[m][n][e] *= of_kept - mean[m][e / 2];
      }
}

template <u32 D, u32 M, u32 K, u32 C, bool HELD, bool DROPOUT>
DEVICE void backward_q(const bf16 *grad, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out, const float *lse, float *delta,
                       bf16 *dq, const Problem p) {
  constexpr u32 Q = FORWARD_WARPS * 16 * M;
  DYNAMIC_SHARED(memory);
  __shared__ Place place;
  __shared__ float means[Q];
  bf16 *qs = reinterpret_cast<bf16 *>(memory), *gs = qs + Q * D, *stages = gs + Q * D;
  u32 own = threadIdx.x / WARP * 16 * M, row_keys[M][2];
  float base[M][2], mean[M][2], sums[M][D / 8][4];
  clear(sums);
  {
    Place here(p, p.h);
    u32 count = here.lq - here.first;
    u64 stride = u64(p.h) * p.dh, row = u64(here.q_start) + here.first, from = row * stride + here.head * p.dh;
    load_tile<Rows<D>, Q, FORWARD_THREADS>(qs, q + from, stride, count, p.dh);
    load_tile<Rows<D>, Q, FORWARD_THREADS>(gs, grad + from, stride, count, p.dh);
    load_keys<Rows<D>, K, FORWARD_THREADS>(stages, k, v, p, here, 0);
    if constexpr (DROPOUT) row_keys_of(row_keys, p, here, here.first + own);
    if (threadIdx.x == 0) place = here;
    load_bases(base, lse + u64(here.head) * p.tq + row, own, count);
  }
  copy_async_wait<0>();
  __syncthreads();
  make_delta<Rows<D>, M>(means, delta, out, gs, p, place, own);
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 i = 0; i < 2; i++) mean[m][i] = means[own + 16 * m + 8 * i + threadIdx.x % WARP / 4];
  Operand<D, M, HELD> queries(qs, own), grads(gs, own);
  queries.hold();
  grads.hold();
  u32 keys = place.seen(place.first + Q - 1);
#pragma unroll 1
  for (u32 k0 = 0, stage = 0; k0 < keys; k0 += K, stage ^= 1) {
    if (k0 > 0) {
      copy_async_wait<0>();
      __syncthreads();
    }
    if (k0 + K < keys) load_keys<Rows<D>, K, FORWARD_THREADS>(stages + (stage ^ 1) * 2 * K * D, k, v, p, place, k0 + K);
    u32 first = place.first + own;
    const bf16 *ks = stages + stage * 2 * K * D;
#pragma unroll 1
    for (u32 c = 0; c < K; c += C) {
      if (k0 + c >= place.seen(first + 16 * M - 1) || first >= place.lq) break;  // None of the warp's queries sees any of them.
      float s[M][C / 8][4], d[M][C / 8][4];
      dot_products(s, queries, ks + c * D);
      if (k0 + c + C > place.seen(first)) hide_unseen(s, place, first, k0 + c);
      dot_products(d, grads, ks + (K + c) * D);
      exponentiate(s, base, p.scale * LOG2E);
      score_gradients_of_rows<M, C / 8, DROPOUT>(s, d, mean, row_keys, k0 + c, p);
      u32 weights[M][C / 16][4];
      pack(weights, s);
      add_weighted<D>(sums, weights, ks + c * D);
    }
  }
  float factor[M][2];
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 i = 0; i < 2; i++) factor[m][i] = p.scale;
  u32 count = place.lq - place.first;
  u64 stride = u64(p.h) * p.dh, row = u64(place.q_start) + place.first + own;
  store_rows<Rows<D>>(dq + row * stride + place.head * p.dh, stride, count > own ? count - own : 0, p.dh, qs, own, sums, factor);
}
}  // namespace attention

#define ATTENTION_BACKWARD_Q(name, blocks, D, M, K, C, HELD, DROPOUT)                                                                     \
  KERNEL(128, blocks)                                                                                                                     \
  attention_backward_q_##name(const bf16 *grad, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out, const float *lse,           \
                              float *delta, bf16 *dq, ATTENTION_PROBLEM) {                                                                \
    attention::backward_q<D, M, K, C, HELD, DROPOUT>(grad, q, k, v, out, lse, delta, dq, ATTENTION_PROBLEM_GIVEN);                        \
  }                                                                                                                                       \
  REGISTER(attention_backward_q_##name)
