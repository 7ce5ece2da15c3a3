// The gradient of queries by products of warpgroups.
//
// As in the forward pass a block has W warpgroups of 64 queries each; keys and values come together in two stages of K. A group makes probabilities of its scores
// while their gradients are still being multiplied.
#ifdef ECHAT_WGMMA
namespace attention {
template <u32 D, u32 W, u32 K, bool DROPOUT>
DEVICE void wgmma_backward_q(const bf16 *grad, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out, const float *lse, float *delta,
                             bf16 *dq, const Problem p) {
  constexpr u32 Q = 64 * W, THREADS = GROUP * W;
  using Own = Panels<D, Q>;
  using Other = Panels<D, K>;
  DYNAMIC_SHARED(memory);
  __shared__ Place place;
  __shared__ float means[Q];
  bf16 *qs = first_tile(memory), *gs = qs + Q * D, *stages = gs + Q * D;
  u32 own = threadIdx.x / WARP * 16, row_keys[1][2];
  float base[1][2], mean[1][2], sums[1][D / 8][4];
  clear(sums);
  {
    Place here(p, p.h);
    u32 count = here.lq - here.first;
    u64 stride = u64(p.h) * p.dh, row = u64(here.q_start) + here.first, from = row * stride + here.head * p.dh;
    load_tile<Own, Q, THREADS>(qs, q + from, stride, count, p.dh);
    load_tile<Own, Q, THREADS>(gs, grad + from, stride, count, p.dh);
    load_keys<Other, K, THREADS>(stages, k, v, p, here, 0);
    if constexpr (DROPOUT) row_keys_of(row_keys, p, here, here.first + own);
    if (threadIdx.x == 0) place = here;
    load_bases(base, lse + u64(here.head) * p.tq + row, own, count);
  }
  copies_arrive();
  make_delta<Own, 1>(means, delta, out, gs, p, place, own);
#pragma unroll
  for (u32 i = 0; i < 2; i++) mean[0][i] = means[own + 8 * i + threadIdx.x % WARP / 4];
  // Keys that the block's queries see, and the group's.
  u32 group = group_of_thread(), keys = place.seen(place.first + Q - 1), mine = 0, first = place.first + own;
  if (place.first + 64 * group < place.lq) mine = place.seen(place.first + 64 * group + 63);
  u64 queries = rows_operand(qs, 64 * group), grads = rows_operand(gs, 64 * group);
#pragma unroll 1
  for (u32 k0 = 0, stage = 0; k0 < keys; k0 += K, stage ^= 1) {
    if (k0 > 0) copies_arrive();
    if (k0 + K < keys) load_keys<Other, K, THREADS>(stages + (stage ^ 1) * 2 * K * D, k, v, p, place, k0 + K);
    if (k0 >= mine) continue;
    const bf16 *ks = stages + stage * 2 * K * D, *vs = ks + K * D;
    float s[1][K / 8][4], d[1][K / 8][4];
    u32 weights[1][K / 16][4];
    begin_products(s, d);
    begin_dot_products<D, Q, K>(s[0], queries, rows_operand(ks));
    begin_dot_products<D, Q, K>(d[0], grads, rows_operand(vs));
    wait_products<1>(s);
    // Hidden only now: the branch keeps the compiler from waiting before it makes probabilities.
    exponentiate(s, base, p.scale * LOG2E);
    if (k0 + K > place.seen(first)) hide_unseen(s, place, first, k0, 0.0f);
    wait_products<0>(d);
    score_gradients_of_rows<1, K / 8, DROPOUT>(s, d, mean, row_keys, k0, p);
    pack(weights, s);
    begin_products(sums, weights);
    begin_add_weighted<D, K>(sums[0], weights[0], ks);
    wait_products<0>(sums, weights);
  }
  // No group's products read the queries any more: their place is that of their gradients.
  __syncthreads();
  float factor[1][2] = {{p.scale, p.scale}};
  u32 count = place.lq - place.first;
  u64 stride = u64(p.h) * p.dh, row = u64(place.q_start) + place.first + own;
  store_rows<Own>(dq + row * stride + place.head * p.dh, stride, count > own ? count - own : 0, p.dh, qs, own, sums, factor);
}
}  // namespace attention

#define ATTENTION_WGMMA_BACKWARD_Q(name, blocks, D, W, K, DROPOUT)                                                                       \
  KERNEL(W * 128, blocks)                                                                                                                \
  attention_wgmma_backward_q_##name(const bf16 *grad, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out, const float *lse,    \
                                    float *delta, bf16 *dq, ATTENTION_PROBLEM) {                                                         \
    attention::wgmma_backward_q<D, W, K, DROPOUT>(grad, q, k, v, out, lse, delta, dq, ATTENTION_PROBLEM_GIVEN);                          \
  }                                                                                                                                      \
  REGISTER(attention_wgmma_backward_q_##name)
#endif
