// Attention by plain arithmetic in f32, for any head dimension and any storage: tiles of 32 queries and 32 keys, held in f32 in shared memory.
//
// Thread (y, x) of 16 x 8 has rows 2y, 2y + 1 of the block's own tile. Of the scores it has columns x, x + 8, x + 16, x + 24, of a row of D numbers
// 32 i + 4 x and the next three. A warp's rows are its own, so that probabilities pass through shared memory within it.

namespace attention {
constexpr u32 PLAIN_TILE = 32, PLAIN_THREADS = 128, PLAIN_WARPS = PLAIN_THREADS / WARP;
// Four numbers more than a tile is wide: rows begin in different banks.
constexpr u32 PLAIN_SKEW = 4, PLAIN_SCORES = PLAIN_TILE * (PLAIN_TILE + PLAIN_SKEW);

template <u32 D> struct Plain {
  static constexpr u32 WIDE = D + PLAIN_SKEW, TILE = PLAIN_TILE * WIDE;
  using Scores = float[2][4];
  using Rows = float[2][D / 32][4];

  static DEVICE u32 y() { return threadIdx.x / 8; }
  static DEVICE u32 x() { return threadIdx.x % 8; }

  // Rows of dh numbers, zeros beyond them and beyond `count` rows.
  template <typename T> static DEVICE void load(float *tile, const T *rows, u64 stride, u32 count, u32 dh) {
    u32 lane = threadIdx.x % WARP;
    for (u32 row = threadIdx.x / WARP; row < PLAIN_TILE; row += PLAIN_WARPS)
      for (u32 c = lane; c < D; c += WARP)
        tile[row * WIDE + c] = row < count && c < dh ? to_float(rows[row * stride + c]) : 0.0f;
  }

  // The dot products of own rows with the other tile's.
  static DEVICE void products(Scores &s, const float *own, const float *other) {
    const float *a = own + 2 * y() * WIDE, *b = other + x() * WIDE;
#pragma unroll
    for (u32 r = 0; r < 2; r++)
      for (u32 j = 0; j < 4; j++) s[r][j] = 0.0f;
#pragma unroll 4
    for (u32 c = 0; c < D; c += 4) {
      Pack<float> left[2], right[4];
      for (u32 r = 0; r < 2; r++) left[r] = *reinterpret_cast<const Pack<float> *>(a + r * WIDE + c);
      for (u32 j = 0; j < 4; j++) right[j] = *reinterpret_cast<const Pack<float> *>(b + 8 * j * WIDE + c);
      for (u32 r = 0; r < 2; r++)
        for (u32 j = 0; j < 4; j++)
          for (u32 k = 0; k < 4; k++) s[r][j] += left[r].x[k] * right[j].x[k];
    }
  }

  // Own rows' numbers to shared memory, for all of the warp.
  static DEVICE void share(float *scores, const Scores &s) {
    __syncwarp();
#pragma unroll
    for (u32 r = 0; r < 2; r++)
      for (u32 j = 0; j < 4; j++) scores[(2 * y() + r) * (PLAIN_TILE + PLAIN_SKEW) + x() + 8 * j] = s[r][j];
    __syncwarp();
  }

  // Adds the other tile's rows, weighted by the shared numbers.
  static DEVICE void add(Rows &sums, const float *scores, const float *other) {
    const float *weights = scores + 2 * y() * (PLAIN_TILE + PLAIN_SKEW), *b = other + 4 * x();
#pragma unroll 2
    for (u32 j = 0; j < PLAIN_TILE; j++) {
      float w0 = weights[j], w1 = weights[PLAIN_TILE + PLAIN_SKEW + j];
#pragma unroll
      for (u32 i = 0; i < D / 32; i++) {
        Pack<float> row = *reinterpret_cast<const Pack<float> *>(b + j * WIDE + 32 * i);
        for (u32 k = 0; k < 4; k++) {
          sums[0][i][k] += w0 * row.x[k];
          sums[1][i][k] += w1 * row.x[k];
        }
      }
    }
  }

  template <typename T> static DEVICE void store(T *rows, u64 stride, u32 count, u32 dh, const Rows &sums, const float (&scale)[2]) {
#pragma unroll
    for (u32 r = 0; r < 2; r++)
#pragma unroll
      for (u32 i = 0; i < D / 32; i++)
        for (u32 k = 0; k < 4; k++) {
          u32 row = 2 * y() + r, c = 32 * i + 4 * x() + k;
          if (row < count && c < dh) rows[row * stride + c] = from_float<T>(sums[r][i][k] * scale[r]);
        }
  }
};

// Over the eight threads of a row.
DEVICE float octet_sum(float x) {
  for (u32 step = 1; step < 8; step *= 2) x += __shfl_xor_sync(ALL, x, step);
  return x;
}
DEVICE float octet_max(float x) {
  for (u32 step = 1; step < 8; step *= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, step));
  return x;
}

template <typename T, u32 D>
DEVICE void plain_forward(const T *q, const T *k, const T *v, T *out, float *lse, const Problem p) {
  using Tile = Plain<D>;
  DYNAMIC_SHARED(memory);
  float *qs = reinterpret_cast<float *>(memory), *ks = qs + Tile::TILE, *vs = ks + Tile::TILE, *scores = vs + Tile::TILE;
  Place place(p, p.h);
  u32 count = place.lq - place.first;
  u64 q_stride = u64(p.h) * p.dh, k_stride = u64(p.hk) * p.dh, q_row = u64(place.q_start) + place.first;
  Tile::load(qs, q + q_row * q_stride + place.head * p.dh, q_stride, count, p.dh);
  u32 keys = place.seen(place.first + least(count, PLAIN_TILE) - 1);
  float scale = p.scale * LOG2E, max[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  u32 row_keys[2] = {};
  if (p.streams != nullptr) {
    u64 stream = fold(u64(p.streams[place.sequence]), place.head);
    for (u32 r = 0; r < 2; r++) row_keys[r] = row_key(stream, place.first + 2 * Tile::y() + r);
  }
  typename Tile::Rows sums = {};
  for (u32 k0 = 0; k0 < keys; k0 += PLAIN_TILE) {
    __syncthreads();
    u64 from = (u64(place.k_start) + k0) * k_stride + place.kv_head * p.dh;
    Tile::load(ks, k + from, k_stride, place.lk - k0, p.dh);
    Tile::load(vs, v + from, k_stride, place.lk - k0, p.dh);
    __syncthreads();
    typename Tile::Scores s;
    Tile::products(s, qs, ks);
    for (u32 r = 0; r < 2; r++) {
      u32 seen = place.seen(place.first + 2 * Tile::y() + r);
      float most = max[r], total = 0.0f;
      for (u32 j = 0; j < 4; j++) {
        s[r][j] = k0 + Tile::x() + 8 * j < seen ? s[r][j] * scale : -INFINITY;
        most = fmaxf(most, s[r][j]);
      }
      most = octet_max(most);
      // A query that has seen no key yet keeps weights of zero.
      float base = most == -INFINITY ? 0.0f : most, decay = exp2f(max[r] - base);
      for (u32 j = 0; j < 4; j++) {
        s[r][j] = exp2f(s[r][j] - base);
        total += s[r][j];
        if (p.streams != nullptr && dropped(row_keys[r], k0 + Tile::x() + 8 * j, p.threshold)) s[r][j] = 0.0f;
      }
      sum[r] = sum[r] * decay + octet_sum(total);
      max[r] = most;
      for (u32 i = 0; i < D / 32; i++)
        for (u32 c = 0; c < 4; c++) sums[r][i][c] *= decay;
    }
    Tile::share(scores, s);
    Tile::add(sums, scores, vs);
  }
  float factor[2];
  for (u32 r = 0; r < 2; r++) {
    u32 row = 2 * Tile::y() + r;
    factor[r] = sum[r] == 0.0f ? 0.0f : p.kept / sum[r];
    if (Tile::x() == 0 && row < count) lse[u64(place.head) * p.tq + q_row + row] = sum[r] == 0.0f ? -INFINITY : (max[r] + log2f(sum[r])) * LN2;
  }
  Tile::store(out + q_row * q_stride + place.head * p.dh, q_stride, count, p.dh, sums, factor);
}

// The gradient of a tile of queries, and each query's `delta` [h, tq], its gradient's dot product with its output.
template <typename T, u32 D>
DEVICE void plain_backward_q(const T *grad, const T *q, const T *k, const T *v, const T *out, const float *lse, float *delta, T *dq,
                             const Problem p) {
  using Tile = Plain<D>;
  DYNAMIC_SHARED(memory);
  float *qs = reinterpret_cast<float *>(memory), *gs = qs + Tile::TILE, *ks = gs + Tile::TILE, *vs = ks + Tile::TILE,
        *scores = vs + Tile::TILE;
  Place place(p, p.h);
  u32 count = place.lq - place.first;
  u64 q_stride = u64(p.h) * p.dh, k_stride = u64(p.hk) * p.dh, q_row = u64(place.q_start) + place.first;
  u64 q_from = q_row * q_stride + place.head * p.dh, lse_from = u64(place.head) * p.tq + q_row;
  Tile::load(qs, q + q_from, q_stride, count, p.dh);
  Tile::load(gs, grad + q_from, q_stride, count, p.dh);
  Tile::load(ks, out + q_from, q_stride, count, p.dh);
  __syncthreads();
  float base[2], mean[2];
  u32 row_keys[2] = {};
  for (u32 r = 0; r < 2; r++) {
    u32 row = 2 * Tile::y() + r;
    float along = 0.0f;
    for (u32 c = Tile::x(); c < D; c += 8) along += gs[row * Tile::WIDE + c] * ks[row * Tile::WIDE + c];
    mean[r] = octet_sum(along);
    base[r] = row < count ? base_of(lse[lse_from + row]) : INFINITY;
    if (Tile::x() == 0 && row < count) delta[lse_from + row] = mean[r];
    if (p.streams != nullptr) row_keys[r] = row_key(fold(u64(p.streams[place.sequence]), place.head), place.first + row);
  }
  u32 keys = place.seen(place.first + least(count, PLAIN_TILE) - 1);
  typename Tile::Rows sums = {};
  for (u32 k0 = 0; k0 < keys; k0 += PLAIN_TILE) {
    __syncthreads();
    u64 from = (u64(place.k_start) + k0) * k_stride + place.kv_head * p.dh;
    Tile::load(ks, k + from, k_stride, place.lk - k0, p.dh);
    Tile::load(vs, v + from, k_stride, place.lk - k0, p.dh);
    __syncthreads();
    typename Tile::Scores s, d;
    Tile::products(s, qs, ks);
    Tile::products(d, gs, vs);
    for (u32 r = 0; r < 2; r++) {
      u32 seen = place.seen(place.first + 2 * Tile::y() + r);
      for (u32 j = 0; j < 4; j++) {
        u32 key = k0 + Tile::x() + 8 * j;
        float of_kept = d[r][j] * p.kept;
        if (p.streams != nullptr && dropped(row_keys[r], key, p.threshold)) of_kept = 0.0f;
        float probability = key < seen ? exp2f(s[r][j] * (p.scale * LOG2E) - base[r]) : 0.0f;
        s[r][j] = probability * (of_kept - mean[r]);
      }
    }
    Tile::share(scores, s);
    Tile::add(sums, scores, ks);
  }
  float factor[2] = {p.scale, p.scale};
  Tile::store(dq + q_from, q_stride, count, p.dh, sums, factor);
}

// The gradients of a tile of keys and values: over the queries of each head that shares them, in their order.
template <typename T, u32 D>
DEVICE void plain_backward_k(const T *grad, const T *q, const T *k, const T *v, const float *lse, const float *delta, T *dk, T *dv,
                             const Problem p) {
  using Tile = Plain<D>;
  DYNAMIC_SHARED(memory);
  float *ks = reinterpret_cast<float *>(memory), *vs = ks + Tile::TILE, *qs = vs + Tile::TILE, *gs = qs + Tile::TILE,
        *scores = gs + Tile::TILE;
  __shared__ float base[PLAIN_TILE], mean[PLAIN_TILE];
  __shared__ u32 row_keys[PLAIN_TILE];
  Place place(p, p.hk);
  u32 group = p.h / p.hk, count = place.lk - place.first;
  u64 q_stride = u64(p.h) * p.dh, k_stride = u64(p.hk) * p.dh;
  u64 k_from = (u64(place.k_start) + place.first) * k_stride + place.head * p.dh;
  Tile::load(ks, k + k_from, k_stride, count, p.dh);
  Tile::load(vs, v + k_from, k_stride, count, p.dh);
  typename Tile::Rows dks = {}, dvs = {};
  for (u32 head = place.head * group; head < (place.head + 1) * group; head++) {
    for (u32 q0 = place.seen_from(place.first); q0 < place.lq; q0 += PLAIN_TILE) {
      u64 q_row = u64(place.q_start) + q0;
      __syncthreads();
      Tile::load(qs, q + q_row * q_stride + head * p.dh, q_stride, place.lq - q0, p.dh);
      Tile::load(gs, grad + q_row * q_stride + head * p.dh, q_stride, place.lq - q0, p.dh);
      if (threadIdx.x < PLAIN_TILE) {
        bool there = q0 + threadIdx.x < place.lq;
        u64 at = u64(head) * p.tq + q_row + threadIdx.x;
        base[threadIdx.x] = there ? base_of(lse[at]) : INFINITY;
        mean[threadIdx.x] = there ? delta[at] : 0.0f;
        if (p.streams != nullptr) row_keys[threadIdx.x] = row_key(fold(u64(p.streams[place.sequence]), head), q0 + threadIdx.x);
      }
      __syncthreads();
      typename Tile::Scores s, d;
      Tile::products(s, ks, qs);
      Tile::products(d, vs, gs);
      for (u32 r = 0; r < 2; r++)
        for (u32 j = 0; j < 4; j++) {
          u32 key = place.first + 2 * Tile::y() + r, i = Tile::x() + 8 * j;
          bool drop = p.streams != nullptr && dropped(row_keys[i], key, p.threshold);
          float probability = key < place.seen(q0 + i) ? exp2f(s[r][j] * (p.scale * LOG2E) - base[i]) : 0.0f;
          s[r][j] = drop ? 0.0f : probability;
          d[r][j] = probability * ((drop ? 0.0f : d[r][j] * p.kept) - mean[i]);
        }
      Tile::share(scores, s);
      Tile::add(dvs, scores, gs);
      Tile::share(scores, d);
      Tile::add(dks, scores, qs);
    }
  }
  float of_k[2] = {p.scale, p.scale}, of_v[2] = {p.kept, p.kept};
  Tile::store(dk + k_from, k_stride, count, p.dh, dks, of_k);
  Tile::store(dv + k_from, k_stride, count, p.dh, dvs, of_v);
}
}  // namespace attention

#define ATTENTION_PLAIN(T, name, D)                                                                                                   \
  KERNEL(128, 2) attention_plain_forward_##name(const T *q, const T *k, const T *v, T *out, float *lse, ATTENTION_PROBLEM) {          \
    attention::plain_forward<T, D>(q, k, v, out, lse, ATTENTION_PROBLEM_GIVEN);                                                       \
  }                                                                                                                                   \
  KERNEL(128, 2)                                                                                                                      \
  attention_plain_backward_q_##name(const T *grad, const T *q, const T *k, const T *v, const T *out, const float *lse, float *delta,  \
                                    T *dq, ATTENTION_PROBLEM) {                                                                       \
    attention::plain_backward_q<T, D>(grad, q, k, v, out, lse, delta, dq, ATTENTION_PROBLEM_GIVEN);                                   \
  }                                                                                                                                   \
  KERNEL(128, 2)                                                                                                                      \
  attention_plain_backward_k_##name(const T *grad, const T *q, const T *k, const T *v, const float *lse, const float *delta, T *dk,   \
                                    T *dv, ATTENTION_PROBLEM) {                                                                       \
    attention::plain_backward_k<T, D>(grad, q, k, v, lse, delta, dk, dv, ATTENTION_PROBLEM_GIVEN);                                    \
  }                                                                                                                                   \
  REGISTER(attention_plain_forward_##name)                                                                                            \
  REGISTER(attention_plain_backward_q_##name)                                                                                         \
  REGISTER(attention_plain_backward_k_##name)
