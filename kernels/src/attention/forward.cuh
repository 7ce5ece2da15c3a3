// The forward pass on tensor cores.
//
// A block has 4 warps of 16 M queries each. Keys and values come in tiles of K, two stages of them: one is copied while the other is used, with one
// meeting of the block for each tile. Scores and the output stay in registers; a score's place there is its place as operand of the second product.

namespace attention {
constexpr u32 FORWARD_WARPS = 4, FORWARD_THREADS = FORWARD_WARPS * WARP;
// Weights are relative to a maximum that is renewed only where a score is above it by more than this, in powers of two: sums are seldom rescaled.
constexpr float SLACK = 8.0f;
// The maximum of a query that has seen no key: below every score, and finite, so that no difference is NaN.
constexpr float NONE = -1.5e38f;

// The running softmax of a warp's queries. A thread has rows 16 m + 8 i + lane / 4, of which four lanes hold the columns.
template <u32 M> struct Softmax {
  float base[M][2], sum[M][2];

  DEVICE Softmax() {
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        base[m][i] = NONE;
        sum[m][i] = 0.0f;
      }
  }

  // Turns scores, unseen ones -infinity, into weights. If bases are renewed first, `decay(m, i, factor)` learns for each row what is then to become of what was
  // weighed before.
  template <u32 N, typename Decay> DEVICE void weigh(float (&s)[M][N][4], float scale, Decay decay) {
    float most[M][2];
    bool above = false;
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        float x = fmaxf(s[m][0][2 * i], s[m][0][2 * i + 1]);
#pragma unroll
        for (u32 n = 1; n < N; n++) x = fmaxf(x, fmaxf(s[m][n][2 * i], s[m][n][2 * i + 1]));
        x = fmaxf(x, __shfl_xor_sync(ALL, x, 1));
        most[m][i] = fmaxf(x, __shfl_xor_sync(ALL, x, 2)) * scale;
        above |= most[m][i] > base[m][i] + SLACK;
      }
    if (__any_sync(ALL, above)) renew(most, decay);
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        float total = 0.0f;
#pragma unroll
        for (u32 n = 0; n < N; n++)
#pragma unroll
          for (u32 e = 2 * i; e < 2 * i + 2; e++) {
            s[m][n][e] = exp2_fast(s[m][n][e] * scale - base[m][i]);
            total += s[m][n][e];
          }
        sum[m][i] += total;
      }
  }

  template <typename Decay> DEVICE void renew(const float (&most)[M][2], Decay decay) {
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        float next = fmaxf(base[m][i], most[m][i]);
        float factor = exp2_fast(base[m][i] - next);
        base[m][i] = next;
        sum[m][i] *= factor;
        decay(m, i, factor);
      }
  }

  // The whole row's sum.
  DEVICE void finish() {
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
      for (u32 i = 0; i < 2; i++) {
        sum[m][i] += __shfl_xor_sync(ALL, sum[m][i], 1);
        sum[m][i] += __shfl_xor_sync(ALL, sum[m][i], 2);
      }
  }
};

// Multiplies half i of a block's rows by a factor.
template <u32 N> DEVICE void rescale(float (&x)[N][4], u32 i, float factor) {
#pragma unroll
  for (u32 n = 0; n < N; n++)
#pragma unroll
    for (u32 e = 2 * i; e < 2 * i + 2; e++) x[n][e] *= factor;
}

// Columns of a warp's products that its queries from `first` do not see become `hidden`; the first column is key k0.
template <u32 M, u32 N> DEVICE void hide_unseen(float (&s)[M][N][4], const Place &place, u32 first, u32 k0, float hidden = -INFINITY) {
  u32 lane = threadIdx.x % WARP;
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
      u32 seen = place.seen(first + 16 * m + 8 * i + lane / 4), column = k0 + 2 * (lane % 4);
#pragma unroll
      for (u32 n = 0; n < N; n++)
#pragma unroll
        for (u32 e = 0; e < 2; e++)
          if (column + 8 * n + e >= seen) s[m][n][2 * i + e] = hidden;
    }
}

// Makes dropped weights zero.
template <u32 M, u32 N> DEVICE void drop(float (&s)[M][N][4], const u32 (&row_keys)[M][2], u32 k0, u32 threshold) {
  u32 column = k0 + 2 * (threadIdx.x % 4);
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 n = 0; n < N; n++)
#pragma unroll
      for (u32 e = 0; e < 4; e++)
        if (dropped(row_keys[m][e / 2], column + 8 * n + e % 2, threshold)) s[m][n][e] = 0.0f;
}

template <u32 M> DEVICE void row_keys_of(u32 (&row_keys)[M][2], const Problem &p, const Place &place, u32 first) {
  u64 stream = fold(u64(p.streams[place.sequence]), place.head);
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 i = 0; i < 2; i++) row_keys[m][i] = row_key(stream, first + 16 * m + 8 * i + threadIdx.x % WARP / 4);
}

// Begins copying a tile of keys and of values from key k0 on.
template <typename Layout, u32 K, u32 THREADS>
DEVICE void load_keys(bf16 *stage, const bf16 *k, const bf16 *v, const Problem &p, const Place &place, u32 k0) {
  u64 stride = u64(p.hk) * p.dh, from = (u64(place.k_start) + k0) * stride + place.kv_head * p.dh;
  load_tile<Layout, K, THREADS>(stage, k + from, stride, place.lk - k0, p.dh);
  load_tile<Layout, K, THREADS>(stage + K * Layout::WIDTH, v + from, stride, place.lk - k0, p.dh);
  copy_async_commit();
}

// Writes the output of a warp's queries, from `own` of the block's, and their log-sum-exp.
template <typename Layout, u32 M>
DEVICE void finish(bf16 *out, float *lse, const Problem &p, const Place &place, bf16 *qs, u32 own, Softmax<M> &softmax,
                   const float (&sums)[M][Layout::WIDTH / 8][4]) {
  u32 lane = threadIdx.x % WARP, count = place.lq - place.first;
  u64 stride = u64(p.h) * p.dh, row = u64(place.q_start) + place.first + own;
  u32 left = count > own ? count - own : 0;
  softmax.finish();
  float factor[M][2];
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
      float sum = softmax.sum[m][i];
      u32 at = 16 * m + 8 * i + lane / 4;
      factor[m][i] = sum == 0.0f ? 0.0f : p.kept / sum;
      if (lane % 4 == 0 && at < left)
        lse[u64(place.head) * p.tq + row + at] = sum == 0.0f ? -INFINITY : (softmax.base[m][i] + log2f(sum)) * LN2;
    }
  store_rows<Layout>(out + row * stride + place.head * p.dh, stride, left, p.dh, qs, own, sums, factor);
}

template <u32 D, u32 M, u32 K, bool HELD, bool DROPOUT>
DEVICE void forward(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, const Problem p) {
  constexpr u32 Q = FORWARD_WARPS * 16 * M;
  DYNAMIC_SHARED(memory);
  __shared__ Place place;  // Where it takes no registers.
  bf16 *qs = reinterpret_cast<bf16 *>(memory), *stages = qs + Q * D;
  u32 own = threadIdx.x / WARP * 16 * M, row_keys[M][2];
  Softmax<M> softmax;
  float sums[M][D / 8][4];
  clear(sums);
  {
    Place here(p, p.h);
    u64 q_stride = u64(p.h) * p.dh, q_from = (u64(here.q_start) + here.first) * q_stride + here.head * p.dh;
    load_tile<Rows<D>, Q, FORWARD_THREADS>(qs, q + q_from, q_stride, here.lq - here.first, p.dh);
    load_keys<Rows<D>, K, FORWARD_THREADS>(stages, k, v, p, here, 0);
    if constexpr (DROPOUT) row_keys_of(row_keys, p, here, here.first + own);
    if (threadIdx.x == 0) place = here;
  }
  copy_async_wait<0>();
  __syncthreads();
  Operand<D, M, HELD> queries(qs, own);
  queries.hold();
  u32 keys = place.seen(place.first + Q - 1);
#pragma unroll 1
  for (u32 k0 = 0, stage = 0; k0 < keys; k0 += K, stage ^= 1) {
    if (k0 > 0) {
      copy_async_wait<0>();
      __syncthreads();
    }
    if (k0 + K < keys) load_keys<Rows<D>, K, FORWARD_THREADS>(stages + (stage ^ 1) * 2 * K * D, k, v, p, place, k0 + K);
    u32 first = place.first + own;
    if (k0 >= place.seen(first + 16 * M - 1) || first >= place.lq) continue;  // None of the warp's queries sees any of them.
    const bf16 *ks = stages + stage * 2 * K * D;
    float s[M][K / 8][4];
    dot_products(s, queries, ks);
    if (k0 + K > place.seen(first)) hide_unseen(s, place, first, k0);
    softmax.weigh(s, p.scale * LOG2E, [&](u32 m, u32 i, float factor) { rescale(sums[m], i, factor); });
    if constexpr (DROPOUT) drop(s, row_keys, k0, p.threshold);
    u32 weights[M][K / 16][4];
    pack(weights, s);
    add_weighted<D>(sums, weights, ks + K * D);
  }
  // The warp's queries are no longer needed: their place is the output's.
  finish<Rows<D>>(out, lse, p, place, qs, own, softmax, sums);
}
}  // namespace attention

#define ATTENTION_FORWARD(name, blocks, D, M, K, HELD, DROPOUT)                                                                       \
  KERNEL(128, blocks) attention_forward_##name(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, ATTENTION_PROBLEM) { \
    attention::forward<D, M, K, HELD, DROPOUT>(q, k, v, out, lse, ATTENTION_PROBLEM_GIVEN);                                           \
  }                                                                                                                                   \
  REGISTER(attention_forward_##name)
