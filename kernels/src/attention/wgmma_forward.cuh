// The forward pass by products of warpgroups.
//
// A block has W warpgroups of 64 queries each. While a group makes the weights of one tile of K keys, the values of the tile before are being added: keys come one tile
// ahead of values, two stages of each, with one meeting of the block for each tile. These products are waited for where the loop begins anew: within a block of code the
// compiler would wait before it makes weights.
#ifdef ECHAT_WGMMA
namespace attention {
// Turns a warp's scores of keys from k0 into weights. Whether what was weighed before is to be multiplied by `decay`.
template <u32 K, bool DROPOUT>
DEVICE bool make_weights(float (&s)[1][K / 8][4], Softmax<1> &softmax, float (&decay)[2], const u32 (&row_keys)[1][2], const Place &place,
                         u32 first, u32 k0, const Problem &p) {
  bool decays = false;
  if (k0 + K > place.seen(first)) hide_unseen(s, place, first, k0);
  softmax.weigh(s, p.scale * LOG2E, [&](u32, u32 i, float factor) {
    decay[i] = factor;
    decays = true;
  });
  if constexpr (DROPOUT) drop(s, row_keys, k0, p.threshold);
  return decays;
}

// Begins copying tile j of keys or of values.
template <typename Layout, u32 K, u32 THREADS>
DEVICE void load_stage(bf16 *stages, const bf16 *x, const Problem &p, const Place &place, u32 j) {
  u64 stride = u64(p.hk) * p.dh, from = (u64(place.k_start) + j * K) * stride + place.kv_head * p.dh;
  load_tile<Layout, K, THREADS>(stages + j % 2 * K * Layout::WIDTH, x + from, stride, place.lk - j * K, p.dh);
}

template <u32 D, u32 W, u32 K, bool DROPOUT>
DEVICE void wgmma_forward(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, const Problem p) {
  constexpr u32 Q = 64 * W, THREADS = GROUP * W;
  using Own = Panels<D, Q>;
  using Other = Panels<D, K>;
  DYNAMIC_SHARED(memory);
  __shared__ Place place;  // Where it takes no registers.
  bf16 *qs = first_tile(memory), *ks = qs + Q * D, *vs = ks + 2 * K * D;
  u32 own = threadIdx.x / WARP * 16, row_keys[1][2];
  {
    Place here(p, p.h);
    u64 stride = u64(p.h) * p.dh, from = (u64(here.q_start) + here.first) * stride + here.head * p.dh;
    load_tile<Own, Q, THREADS>(qs, q + from, stride, here.lq - here.first, p.dh);
    load_stage<Other, K, THREADS>(ks, k, p, here, 0);
    copy_async_commit();
    if constexpr (DROPOUT) row_keys_of(row_keys, p, here, here.first + own);
    if (threadIdx.x == 0) place = here;
  }
  copies_arrive();
  // Tiles that the block's queries see, and the group's.
  u32 group = group_of_thread(), tiles = ceil_div(place.seen(place.first + Q - 1), K), mine = 0;
  if (place.first + 64 * group < place.lq) mine = ceil_div(place.seen(place.first + 64 * group + 63), K);
  u64 queries = rows_operand(qs, 64 * group);
  u32 first = place.first + own, weights[1][K / 16][4];
  Softmax<1> softmax;
  float s[1][K / 8][4], sums[1][D / 8][4], decay[2];
  bool decays = false;
  clear(s);
  clear(sums);
  auto load_next = [&](u32 j) {
    if (j < tiles) load_stage<Other, K, THREADS>(vs, v, p, place, j);
    if (j + 1 < tiles) load_stage<Other, K, THREADS>(ks, k, p, place, j + 1);
    copy_async_commit();
  };
  load_next(0);
  if (mine > 0) {
    begin_products(s);
    begin_dot_products<D, Q, K>(s[0], queries, rows_operand(ks));
    wait_products<0>(s);
    make_weights<K, DROPOUT>(s, softmax, decay, row_keys, place, first, 0, p);
  }
  auto add_values = [&](u32 j) { begin_add_weighted<D, K>(sums[0], weights[0], vs + j % 2 * K * D); };
  // Once the values before have been added: those that were weighed by another maximum are rescaled, and the new weights become an operand.
  auto weights_follow = [&]() {
    wait_products<0>(sums, weights);
    if (decays) {
      rescale(sums[0], 0, decay[0]);
      rescale(sums[0], 1, decay[1]);
    }
    pack(weights, s);
  };
  u32 j = 1;
#pragma unroll 1
  for (; j < mine; j++) {
    weights_follow();
    copies_arrive();
    load_next(j);
    begin_products(s, sums, weights);
    begin_dot_products<D, Q, K>(s[0], queries, rows_operand(ks + j % 2 * K * D));
    add_values(j - 1);
    wait_products<1>(s);
    decays = make_weights<K, DROPOUT>(s, softmax, decay, row_keys, place, first, j * K, p);
  }
  weights_follow();
  // The values of the group's last tile, and what tiles other groups have more.
#pragma unroll 1
  for (; j <= tiles; j++) {
    copies_arrive();
    load_next(j);
    if (j == mine) {
      begin_products(sums, weights);
      add_values(j - 1);
      wait_products<0>(sums, weights);
    }
  }
  // No group's products read the queries any more: their place is the output's.
  __syncthreads();
  finish<Own>(out, lse, p, place, qs, own, softmax, sums);
}
}  // namespace attention

#define ATTENTION_WGMMA_FORWARD(name, blocks, D, W, K, DROPOUT)                                                                  \
  KERNEL(W * 128, blocks)                                                                                                        \
  attention_wgmma_forward_##name(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, ATTENTION_PROBLEM) {        \
    attention::wgmma_forward<D, W, K, DROPOUT>(q, k, v, out, lse, ATTENTION_PROBLEM_GIVEN);                                      \
  }                                                                                                                              \
  REGISTER(attention_wgmma_forward_##name)
#endif
