// The gradients of keys and values on tensor cores.
//
// A block has W warps of 16 M keys each, and goes through the queries that see them, head after head of those that share the keys, in two stages
// of Q; scores are made for C of them at a time, transposed: a warp's keys are rows, queries columns. So the sums over queries are the warp's own.

namespace attention {
// What a tile's queries are in the softmax.
template <u32 Q> struct Statistics {
  float base[Q], mean[Q];
  u32 row_keys[Q];
};

// A query's of a tile to come, on their way from global to shared memory.
struct Statistic {
  float base, mean;
  u32 row_key;

  template <bool DROPOUT> DEVICE void load(const float *lse, const float *delta, const Problem &p, const Place &place, u32 head, u32 i) {
    u64 at = u64(head) * p.tq + place.q_start + i;
    base = i < place.lq ? base_of(lse[at]) : INFINITY;
    mean = i < place.lq ? delta[at] : 0.0f;
    if constexpr (DROPOUT) row_key = attention::row_key(fold(u64(p.streams[place.sequence]), head), i);
  }
  template <bool DROPOUT, u32 Q> DEVICE void store(Statistics<Q> &to) const {
    to.base[threadIdx.x] = base;
    to.mean[threadIdx.x] = mean;
    if constexpr (DROPOUT) to.row_keys[threadIdx.x] = row_key;
  }
};

// Begins copying a tile of queries and of gradients of outputs from query q0 of a head on.
template <typename Layout, u32 Q, u32 THREADS>
DEVICE void load_queries(bf16 *stage, const bf16 *q, const bf16 *grad, const Problem &p, const Place &place, u32 head, u32 q0) {
  u64 stride = u64(p.h) * p.dh, from = (u64(place.q_start) + q0) * stride + head * p.dh;
  load_tile<Layout, Q, THREADS>(stage, q + from, stride, place.lq - q0, p.dh);
  load_tile<Layout, Q, THREADS>(stage + Q * Layout::WIDTH, grad + from, stride, place.lq - q0, p.dh);
  copy_async_commit();
}

// Turns scores of keys from `first` and queries from q0 into probabilities. Bit (m N + n) 4 + e of the result: whether that one is dropped.
template <u32 M, u32 N, u32 Q, bool DROPOUT>
DEVICE u32 probabilities(float (&s)[M][N][4], const Statistics<Q> &of, u32 column, const Place &place, u32 first, u32 q0, const Problem &p) {
  u32 lane = threadIdx.x % WARP, bits = 0;
  static_assert(M * N * 4 <= 32, "a bit for each");
#pragma unroll
  for (u32 n = 0; n < N; n++)
#pragma unroll
    for (u32 e = 0; e < 2; e++) {
      u32 i = column + 8 * n + 2 * (lane % 4) + e;
      float base = of.base[i];
#pragma unroll
      for (u32 m = 0; m < M; m++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
          float &x = s[m][n][2 * half + e];
          x = exp2_fast(x * (p.scale * LOG2E) - base);
          u32 key = first + 16 * m + 8 * half + lane / 4;
          if constexpr (DROPOUT) bits |= u32(dropped(of.row_keys[i], key, p.threshold)) << ((m * N + n) * 4 + 2 * half + e);
        }
    }
  if (place.seen(q0) < first + 16 * M) {  // Not every query sees every key.
#pragma unroll
    for (u32 n = 0; n < N; n++)
#pragma unroll
      for (u32 e = 0; e < 2; e++) {
        u32 seen = place.seen(q0 + 8 * n + 2 * (lane % 4) + e);
#pragma unroll
        for (u32 m = 0; m < M; m++)
#pragma unroll
          for (u32 half = 0; half < 2; half++)
            if (first + 16 * m + 8 * half + lane / 4 >= seen) s[m][n][2 * half + e] = 0.0f;
      }
  }
  return bits;
}

// Probabilities as they weigh gradients, but for dropout's factor.
template <u32 M, u32 N, bool DROPOUT> DEVICE void pack_kept(u32 (&w)[M][N / 2][4], const float (&s)[M][N][4], u32 bits) {
  if constexpr (!DROPOUT) {
    pack(w, s);
  } else {
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
      for (u32 n = 0; n < N; n++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
          u32 at = (m * N + n) * 4 + 2 * half;
          float low = bits >> at & 1 ? 0.0f : s[m][n][2 * half], high = bits >> (at + 1) & 1 ? 0.0f : s[m][n][2 * half + 1];
          w[m][n / 2][n % 2 * 2 + half] = pack_bf16(low, high);
        }
  }
}

// Turns the gradients d of kept probabilities into those of scores.
template <u32 M, u32 N, u32 Q, bool DROPOUT>
DEVICE void score_gradients(float (&d)[M][N][4], const float (&s)[M][N][4], const Statistics<Q> &of, u32 column, u32 bits, const Problem &p) {
#pragma unroll
  for (u32 n = 0; n < N; n++)
#pragma unroll
    for (u32 e = 0; e < 2; e++) {
      float mean = of.mean[column + 8 * n + 2 * (threadIdx.x % 4) + e];
#pragma unroll
      for (u32 m = 0; m < M; m++)
#pragma unroll
        for (u32 i = e; i < 4; i += 2) {
          float of_kept = d[m][n][i];
          if constexpr (DROPOUT) of_kept = bits >> ((m * N + n) * 4 + i) & 1 ? 0.0f : of_kept * p.kept;
          d[m][n][i] = s[m][n][i] * (of_kept - mean);
        }
    }
}

// Writes a gradient's rows of a warp's keys, by way of its rows of a tile.
template <typename Layout, u32 M>
DEVICE void store_keys(bf16 *to, const Problem &p, const Place &place, bf16 *tile, u32 own, const float (&sums)[M][Layout::WIDTH / 8][4],
                       float scale) {
  float factor[M][2];
#pragma unroll
  for (u32 m = 0; m < M; m++)
#pragma unroll
    for (u32 i = 0; i < 2; i++) factor[m][i] = scale;
  u32 count = place.lk - place.first;
  u64 stride = u64(p.hk) * p.dh, row = u64(place.k_start) + place.first + own;
  store_rows<Layout>(to + row * stride + place.head * p.dh, stride, count > own ? count - own : 0, p.dh, tile, own, sums, factor);
}

// Adds to the gradients of a warp's keys from `first` on what C queries from q0 make of them: rows of a tile from `column` on, beginning at qs and gs.
template <u32 D, u32 M, u32 Q, u32 C, bool OF_K, bool OF_V, bool DROPOUT, typename Dk, typename Dv, typename Keys, typename Values>
DEVICE void add_queries(Dk &dks, Dv &dvs, const Keys &keys, const Values &values, const bf16 *qs, const bf16 *gs, const Statistics<Q> &of,
                        u32 column, const Place &place, u32 first, u32 q0, const Problem &p) {
  float s[M][C / 8][4];
  u32 weights[M][C / 16][4];
  dot_products(s, keys, qs);
  u32 bits = probabilities<M, C / 8, Q, DROPOUT>(s, of, column, place, first, q0, p);
  if constexpr (OF_V) {
    pack_kept<M, C / 8, DROPOUT>(weights, s, bits);
    add_weighted<D>(dvs, weights, gs);
  }
  if constexpr (OF_K) {
    float d[M][C / 8][4];
    dot_products(d, values, gs);
    score_gradients<M, C / 8, Q, DROPOUT>(d, s, of, column, bits, p);
    pack(weights, d);
    add_weighted<D>(dks, weights, qs);
  }
}

template <u32 D, u32 M, u32 W, u32 Q, u32 C, bool K_HELD, bool V_HELD, bool OF_K, bool OF_V, bool DROPOUT>
DEVICE void backward_k(const bf16 *grad, const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const float *delta, bf16 *dk,
                       bf16 *dv, const Problem p) {
  constexpr u32 K = W * 16 * M, THREADS = W * WARP;
  DYNAMIC_SHARED(memory);
  __shared__ Place place;
  __shared__ u32 heads_end;
  __shared__ Statistics<Q> statistics[2];
  bf16 *ks = reinterpret_cast<bf16 *>(memory), *vs = ks + K * D, *stages = vs + K * D;
  u32 own = threadIdx.x / WARP * 16 * M, head, q0;
  float dks[OF_K ? M : 1][OF_K ? D / 8 : 1][4], dvs[OF_V ? M : 1][OF_V ? D / 8 : 1][4];
  clear(dks);
  clear(dvs);
  Statistic next;
  {
    Place here(p, p.hk);
    u32 group = p.h / p.hk;
    load_keys<Rows<D>, K, THREADS>(ks, k, v, p, here, here.first);
    head = here.head * group;
    if (threadIdx.x == 0) {
      place = here;
      heads_end = head + group;
    }
    q0 = here.seen_from(here.first);
    if (q0 < here.lq) {
      load_queries<Rows<D>, Q, THREADS>(stages, q, grad, p, here, head, q0);
      if (threadIdx.x < Q) {
        next.load<DROPOUT>(lse, delta, p, here, head, q0 + threadIdx.x);
        next.store<DROPOUT>(statistics[0]);
      }
    } else {
      head += group;
    }
  }
  copy_async_wait<0>();
  __syncthreads();
  Operand<D, M, K_HELD> keys(ks, own);
  Operand<D, M, V_HELD> values(vs, own);
  keys.hold();
  values.hold();
#pragma unroll 1
  for (u32 stage = 0; head < heads_end; stage ^= 1) {
    copy_async_wait<0>();
    __syncthreads();
    u32 next_q0 = q0 + Q;
    if (next_q0 >= place.lq) {
      next_q0 = place.seen_from(place.first);
      head++;
    }
    bool loads = head < heads_end;
    if (loads) {
      load_queries<Rows<D>, Q, THREADS>(stages + (stage ^ 1) * 2 * Q * D, q, grad, p, place, head, next_q0);
      if (threadIdx.x < Q) next.load<DROPOUT>(lse, delta, p, place, head, next_q0 + threadIdx.x);
    }
    const bf16 *qs = stages + stage * 2 * Q * D, *gs = qs + Q * D;
    u32 first = place.first + own;
#pragma unroll 1
    for (u32 c = 0; c < Q && q0 + c < place.lq && first < place.lk; c += C) {
      if (place.seen(q0 + c + C - 1) <= first) continue;  // None of the queries sees any of the warp's keys.
      add_queries<D, M, Q, C, OF_K, OF_V, DROPOUT>(dks, dvs, keys, values, qs + c * D, gs + c * D, statistics[stage], c, place, first, q0 + c, p);
    }
    if (loads && threadIdx.x < Q) next.store<DROPOUT>(statistics[stage ^ 1]);
    q0 = next_q0;
  }
  // The warp's keys and values are no longer needed: their place is that of their gradients.
  if constexpr (OF_K) store_keys<Rows<D>, M>(dk, p, place, ks, own, dks, p.scale);
  if constexpr (OF_V) store_keys<Rows<D>, M>(dv, p, place, vs, own, dvs, p.kept);
}
}  // namespace attention

#define ATTENTION_BACKWARD_K(name, blocks, D, M, W, Q, C, K_HELD, V_HELD, DROPOUT)                                                                   \
  KERNEL(W * 32, blocks)                                                                                                                   \
  attention_backward_k_##name(const bf16 *grad, const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const float *delta,         \
                              bf16 *dk, bf16 *dv, ATTENTION_PROBLEM) {                                                                     \
    attention::backward_k<D, M, W, Q, C, K_HELD, V_HELD, true, true, DROPOUT>(grad, q, k, v, lse, delta, dk, dv, ATTENTION_PROBLEM_GIVEN);           \
  }                                                                                                                                        \
  REGISTER(attention_backward_k_##name)

// Heads so wide that registers hold one gradient: a block makes that of keys, another that of values.
#define ATTENTION_BACKWARD_K_HALVES(name, blocks, D, M, W, Q, C, K_HELD, V_HELD, DROPOUT)                                                            \
  KERNEL(W * 32, blocks)                                                                                                                   \
  attention_backward_k_##name(const bf16 *grad, const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const float *delta,         \
                              bf16 *dk, bf16 *dv, ATTENTION_PROBLEM) {                                                                     \
    if (blockIdx.y == 0)                                                                                                                   \
      attention::backward_k<D, M, W, Q, C, K_HELD, V_HELD, true, false, DROPOUT>(grad, q, k, v, lse, delta, dk, dv, ATTENTION_PROBLEM_GIVEN);        \
    else                                                                                                                                   \
      attention::backward_k<D, M, W, Q, C, K_HELD, V_HELD, false, true, DROPOUT>(grad, q, k, v, lse, delta, dk, dv, ATTENTION_PROBLEM_GIVEN);        \
  }                                                                                                                                        \
  REGISTER(attention_backward_k_##name)
