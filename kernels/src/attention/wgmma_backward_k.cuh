// The gradients of keys and values by products of warpgroups.
//
// A block has W warpgroups of 64 keys each, and goes through the queries that see them, head after head of those that share the keys, in two stages of Q. Scores are
// transposed, keys rows and queries columns, so that weights are operands in registers; the group's sums over queries are its own.
#ifdef ECHAT_WGMMA
namespace attention {
// Adds to the gradients of a group's keys what the Q queries of a stage from q0 on make of them. `first` is the warp's first key.
template <u32 D, u32 K, u32 Q, bool DROPOUT>
DEVICE void wgmma_add_queries(float (&dks)[1][D / 8][4], float (&dvs)[1][D / 8][4], u64 keys, u64 values, const bf16 *qs, const bf16 *gs,
                              const Statistics<Q> &of, const Place &place, u32 first, u32 q0, const Problem &p) {
  float s[1][Q / 8][4], d[1][Q / 8][4];
  u32 kept[1][Q / 16][4], weights[1][Q / 16][4];
  begin_products(s, d);
  begin_dot_products<D, K, Q>(s[0], keys, rows_operand(qs));
  begin_dot_products<D, K, Q>(d[0], values, rows_operand(gs));
  wait_products<1>(s);
  u32 bits = probabilities<1, Q / 8, Q, DROPOUT>(s, of, 0, place, first, q0, p);
  pack_kept<1, Q / 8, DROPOUT>(kept, s, bits);
  begin_products(dvs, kept);
  begin_add_weighted<D, Q>(dvs[0], kept[0], gs);
  wait_products<1>(d);
  score_gradients<1, Q / 8, Q, DROPOUT>(d, s, of, 0, bits, p);
  pack(weights, d);
  begin_products(dks, weights);
  begin_add_weighted<D, Q>(dks[0], weights[0], qs);
  wait_products<0>(dks, dvs, kept, weights);
}

template <u32 D, u32 W, u32 Q, bool DROPOUT>
DEVICE void wgmma_backward_k(const bf16 *grad, const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const float *delta, bf16 *dk,
                             bf16 *dv, const Problem p) {
  constexpr u32 K = 64 * W, THREADS = GROUP * W;
  using Own = Panels<D, K>;
  using Other = Panels<D, Q>;
  DYNAMIC_SHARED(memory);
  __shared__ Place place;
  __shared__ u32 heads_end;
  __shared__ Statistics<Q> statistics[2];
  bf16 *ks = first_tile(memory), *vs = ks + K * D, *stages = vs + K * D;
  u32 own = threadIdx.x / WARP * 16, group = group_of_thread(), head, q0;
  float dks[1][D / 8][4], dvs[1][D / 8][4];
  clear(dks);
  clear(dvs);
  Statistic next;
  {
    Place here(p, p.hk);
    u32 sharing = p.h / p.hk;
    load_keys<Own, K, THREADS>(ks, k, v, p, here, here.first);
    head = here.head * sharing;
    if (threadIdx.x == 0) {
      place = here;
      heads_end = head + sharing;
    }
    q0 = here.seen_from(here.first);
    if (q0 < here.lq) {
      load_queries<Other, Q, THREADS>(stages, q, grad, p, here, head, q0);
      if (threadIdx.x < Q) {
        next.load<DROPOUT>(lse, delta, p, here, head, q0 + threadIdx.x);
        next.store<DROPOUT>(statistics[0]);
      }
    } else {
      head += sharing;
    }
  }
  u64 keys = rows_operand(ks, 64 * group), values = rows_operand(vs, 64 * group);
  copies_arrive();
#pragma unroll 1
  for (u32 stage = 0; head < heads_end; stage ^= 1) {
    copies_arrive();
    u32 next_q0 = q0 + Q;
    if (next_q0 >= place.lq) {
      next_q0 = place.seen_from(place.first);
      head++;
    }
    bool loads = head < heads_end;
    if (loads) {
      load_queries<Other, Q, THREADS>(stages + (stage ^ 1) * 2 * Q * D, q, grad, p, place, head, next_q0);
      if (threadIdx.x < Q) next.load<DROPOUT>(lse, delta, p, place, head, next_q0 + threadIdx.x);
    }
    const bf16 *qs = stages + stage * 2 * Q * D, *gs = qs + Q * D;
    u32 first = place.first + 64 * group;
    // Unless none of the queries sees any of the group's keys.
    if (first < place.lk && place.seen(q0 + Q - 1) > first)
      wgmma_add_queries<D, K, Q, DROPOUT>(dks, dvs, keys, values, qs, gs, statistics[stage], place, place.first + own, q0, p);
    if (loads && threadIdx.x < Q) next.store<DROPOUT>(statistics[stage ^ 1]);
    q0 = next_q0;
  }
  // No group's products read keys or values any more: their place is that of their gradients.
  __syncthreads();
  store_keys<Own, 1>(dk, p, place, ks, own, dks, p.scale);
  store_keys<Own, 1>(dv, p, place, vs, own, dvs, p.kept);
}
}  // namespace attention

#define ATTENTION_WGMMA_BACKWARD_K(name, blocks, D, W, Q, DROPOUT)                                                                      \
  KERNEL(W * 128, blocks)                                                                                                               \
  attention_wgmma_backward_k_##name(const bf16 *grad, const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const float *delta, \
                                    bf16 *dk, bf16 *dv, ATTENTION_PROBLEM) {                                                            \
    attention::wgmma_backward_k<D, W, Q, DROPOUT>(grad, q, k, v, lse, delta, dk, dv, ATTENTION_PROBLEM_GIVEN);                          \
  }                                                                                                                                     \
  REGISTER(attention_wgmma_backward_k_##name)
#endif
