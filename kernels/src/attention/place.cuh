// What a block of attention works on, which keys a query sees, and which probabilities are dropped.

namespace attention {
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;

struct Problem {
  const u32 *q_offsets, *k_offsets;  // Where each sequence begins, [n + 1].
  const u32 *work;                   // [tiles, 2]: a sequence, and the first row of a tile of it; the longest work first.
  const i64 *streams;                // Dropout's stream of each sequence; null: none is dropped.
  u32 tq, h, hk, dh, causal;
  float scale;
  u32 threshold;
  float kept;  // What dropout multiplies the others by.
};
// A kernel's last arguments, and the Problem they are.
#define ATTENTION_PROBLEM                                                                                                          \
  const u32 *q_offsets, const u32 *k_offsets, const u32 *work, const i64 *streams, u32 tq, u32 h, u32 hk, u32 dh, u32 causal,      \
      float scale, u32 threshold, float kept
#define ATTENTION_PROBLEM_GIVEN \
  attention::Problem { q_offsets, k_offsets, work, streams, tq, h, hk, dh, causal, scale, threshold, kept }

// A block's tile of queries or of keys: its sequence, its head among those of the grid, the head of its keys, its first row in the sequence.
struct Place {
  u32 sequence, head, kv_head, first;
  u32 q_start, lq, k_start, lk;
  i32 shift;  // Query i sees the keys below i + shift.

  Place() = default;
  DEVICE Place(const Problem &p, u32 heads) {
    u32 item = blockIdx.x / heads;
    head = blockIdx.x % heads;
    kv_head = heads == p.h ? head / (p.h / p.hk) : head;
    sequence = p.work[2 * item];
    first = p.work[2 * item + 1];
    q_start = p.q_offsets[sequence];
    lq = p.q_offsets[sequence + 1] - q_start;
    k_start = p.k_offsets[sequence];
    lk = p.k_offsets[sequence + 1] - k_start;
    shift = p.causal != 0 ? i32(lk + 1 - lq) : i32(lk);
  }

  // How many keys query i sees: the first so many.
  DEVICE u32 seen(u32 i) const { return u32(greatest(least(i32(i) + shift, i32(lk)), 0)); }
  // The first query that sees key j, if any does.
  DEVICE u32 seen_from(u32 j) const { return u32(greatest(i32(j) + 1 - shift, 0)); }
};

// ---- Dropout: rng.rs, bit for bit ----

DEVICE u64 spread(u64 x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
DEVICE u64 fold(u64 key, u64 word) { return spread((key + 0x9e3779b97f4a7c15ull) ^ spread(word + 0x6a09e667f3bcc909ull)); }

// The key of query i's probabilities.
DEVICE u32 row_key(u64 stream_of_head, u32 i) { return u32(fold(stream_of_head, i) >> 32); }

DEVICE bool dropped(u32 row_key, u32 j, u32 threshold) {
  u32 x = row_key ^ (j * 0x9e3779b9u);
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return (x ^ (x >> 16)) < threshold;
}

// The log-sum-exp as what is taken from scores in powers of two. Infinity makes every probability 0: of a query that sees no key.
DEVICE float base_of(float lse) { return lse == -INFINITY ? INFINITY : lse * LOG2E; }
}  // namespace attention
