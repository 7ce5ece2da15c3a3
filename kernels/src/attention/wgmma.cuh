// Products of warpgroups of 128 threads: `wgmma.mma_async` of sm_90a (PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate").
//
// A product is 64 rows by N columns by a depth of 16. Warp w of the group has rows 16 w to 16 w + 15, and a thread of it what mma_16x8x16 would give it of
// each eight columns: scores, weights and sums lie in registers as they do there (M = 1).
//
// Operands in shared memory are tiles in `Panels`, which is what the ISA calls the canonical layouts with 128-byte swizzle (T = 8 numbers; CUTLASS names them
// alike, mma_traits_sm90_gmma.hpp):
//   depth along the rows ("K-major"):   Swizzle<3,4,3> o ((8, m), (T, 2 k)) : ((8 T, SBO), (1, T))
//   depth down the rows ("MN-major"):   Swizzle<3,4,3> o ((T, 8, m), (8, k)) : ((1, T, LBO), (8 T, SBO))
// Eight rows of a panel are 1024 bytes: that is SBO, the step to the next eight, in both. LBO is the step to the next panel, unused in the first. The swizzle flips
// bits 4 to 6 of an address by its bits 7 to 9: where tiles begin at multiples of 1024 that is chunk ^ (row % 8), and the descriptor's base offset is 0.

// Where the instruction is not, nor are the kernels that use it: see `path` in cuda.rs.
#if defined(ECHAT_EMULATE) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ECHAT_WGMMA

namespace attention {
constexpr u32 GROUP = 128;

// A tile of ROWS rows of D numbers: its columns in panels of 64, each panel's rows one after the other.
template <u32 D, u32 ROWS> struct Panels {
  static constexpr u32 WIDTH = D;
  static DEVICE u32 at(u32 row, u32 chunk) { return chunk / 8 * ROWS * 64 + row * 64 + ((chunk ^ row) % 8) * 8; }
};

// Which of the block's groups a thread is in: the same for a warp, as the compiler then sees.
DEVICE u32 group_of_thread() { return __shfl_sync(ALL, threadIdx.x / GROUP, 0); }

#ifdef ECHAT_EMULATE
DEVICE u32 shared_address(const void *p) { return emulator::shared_address(p); }
#else
DEVICE u32 shared_address(const void *p) { return u32(__cvta_generic_to_shared(p)); }
#endif

// Where tiles may begin in shared memory, of which 1 KiB more than they need was asked for.
constexpr u32 PATTERN = 1024;
DEVICE bf16 *first_tile(u8 *memory) { return reinterpret_cast<bf16 *>(memory + (0u - shared_address(memory)) % PATTERN); }

// ---- Operands: descriptors, which offsets in bytes are added to ----

DEVICE u64 encoded(u32 bytes) { return bytes >> 4; }
DEVICE u64 descriptor(const bf16 *tile, u32 leading, u32 stride) {
  constexpr u64 SWIZZLE_128 = 1;
  return encoded(shared_address(tile) & 0x3ffff) | encoded(leading) << 16 | encoded(stride) << 32 | SWIZZLE_128 << 62;
}
// The rows of a tile from a multiple of 8 on, whose numbers are the depth.
DEVICE u64 rows_operand(const bf16 *tile, u32 first = 0) { return descriptor(tile + first * 64, 16, 8 * 128); }
// Its columns, whose numbers are.
template <u32 ROWS> DEVICE u64 columns_operand(const bf16 *tile) { return descriptor(tile, ROWS * 128, 8 * 128); }
// How far the k-th 16 of the depth lie.
template <u32 ROWS> DEVICE u64 along_rows(u32 k) { return encoded(k / 4 * ROWS * 128 + k % 4 * 32); }
DEVICE u64 down_rows(u32 k) { return encoded(k * 16 * 128); }

// ---- The instructions ----

template <u32 N> struct Wgmma;
#ifdef ECHAT_EMULATE
template <u32 N> struct Wgmma {
  static DEVICE void both_rows(float (&d)[N / 8][4], u64 a, u64 b, bool add) { emulator::wgmma(&d[0][0], N, nullptr, a, b, add, false); }
  static DEVICE void columns(float (&d)[N / 8][4], const u32 (&a)[4], u64 b) { emulator::wgmma(&d[0][0], N, a, 0, b, true, true); }
};
DEVICE void wgmma_fence() { emulator::wgmma_fence(); }
DEVICE void wgmma_commit() { emulator::wgmma_commit(); }
DEVICE void proxy_fence() { emulator::proxy_fence(); }
template <int N> DEVICE void wgmma_wait() { emulator::wgmma_wait(N); }
template <typename T> DEVICE void settle(T &) {}
#else
#define SUMS_4(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define SUMS_32(i) SUMS_4(i), SUMS_4(i + 1), SUMS_4(i + 2), SUMS_4(i + 3), SUMS_4(i + 4), SUMS_4(i + 5), SUMS_4(i + 6), SUMS_4(i + 7)
#define FIRST_32 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NEXT_32 \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"

template <> struct Wgmma<64> {
  // d = or += a b, both tiles' rows.
  static DEVICE void both_rows(float (&d)[8][4], u64 a, u64 b, bool add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" FIRST_32 "}, %32, %33, p, 1, 1, 0, 0;\n}"
        : SUMS_32(0)
        : "l"(a), "l"(b), "r"(u32(add)));
  }
  // d += a b, a in registers as mma_16x8x16 takes it, b a tile's columns.
  static DEVICE void columns(float (&d)[8][4], const u32 (&a)[4], u64 b) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" FIRST_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
        : SUMS_32(0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
  }
};
template <> struct Wgmma<128> {
  static DEVICE void both_rows(float (&d)[16][4], u64 a, u64 b, bool add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FIRST_32 "," NEXT_32 "}, %64, %65, p, 1, 1, 0, 0;\n}"
        : SUMS_32(0), SUMS_32(8)
        : "l"(a), "l"(b), "r"(u32(add)));
  }
  static DEVICE void columns(float (&d)[16][4], const u32 (&a)[4], u64 b) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FIRST_32 "," NEXT_32 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
        : SUMS_32(0), SUMS_32(8)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
  }
};
#undef SUMS_4
#undef SUMS_32
#undef FIRST_32
#undef NEXT_32

// Before products that use registers which other instructions used.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// What this thread copied to shared memory becomes visible to products, once the block has met.
DEVICE void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
template <int N> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// Products go on after their instruction, which the compiler does not know: it moves no use of a register across this.
DEVICE void settle(float &x) { asm volatile("" : "+f"(x)::"memory"); }
DEVICE void settle(u32 &x) { asm volatile("" : "+r"(x)::"memory"); }
template <typename T, u32 N> DEVICE void settle(T (&x)[N]) {
#pragma unroll
  for (u32 i = 0; i < N; i++) settle(x[i]);
}
#endif

// ---- Products of tiles ----

// Before products: `x`, all the registers they read or add to, are as the program says.
template <typename... X> DEVICE void begin_products(X &...x) {
  (settle(x), ...);
  wgmma_fence();
}
// Waits until at most the N newest groups of products are under way. `x` are the registers that those which ended read or added to, now free.
template <int N, typename... X> DEVICE void wait_products(X &...x) {
  wgmma_wait<N>();
  (settle(x), ...);
}

// Begins s = rows of a tile of OWN times the N rows of another: dot products. A group of its own.
template <u32 D, u32 OWN, u32 N> DEVICE void begin_dot_products(float (&s)[N / 8][4], u64 own, u64 other) {
#pragma unroll
  for (u32 k = 0; k < D / 16; k++) Wgmma<N>::both_rows(s, own + along_rows<OWN>(k), other + along_rows<N>(k), k > 0);
  wgmma_commit();
}
// Begins sums += the K rows of a tile, weighted by p.
template <u32 D, u32 K> DEVICE void begin_add_weighted(float (&sums)[D / 8][4], const u32 (&p)[K / 16][4], const bf16 *tile) {
  u64 columns = columns_operand<K>(tile);
#pragma unroll
  for (u32 k = 0; k < K / 16; k++) Wgmma<D>::columns(sums, p[k], columns + down_rows(k));
  wgmma_commit();
}

// Waits for the thread's copies to shared memory, then for the block: products may read all of them.
DEVICE void copies_arrive() {
  copy_async_wait<0>();
  proxy_fence();
  __syncthreads();
}

// The two kinds of products alone, for checks: dots [64, K] = a b', sums [64, D] = bf16(dots) b, for a [64, D] and b [K, D].
template <u32 D, u32 K> DEVICE void products(const bf16 *a, const bf16 *b, float *dots, float *sums) {
  DYNAMIC_SHARED(memory);
  bf16 *own = first_tile(memory), *other = own + 64 * D;
  load_tile<Panels<D, 64>, 64, GROUP>(own, a, D, 64, D);
  load_tile<Panels<D, K>, K, GROUP>(other, b, D, K, D);
  copy_async_commit();
  copies_arrive();
  float s[1][K / 8][4], x[1][D / 8][4];
  u32 weights[1][K / 16][4];
  clear(x);
  begin_products(s);
  begin_dot_products<D, 64, K>(s[0], rows_operand(own), rows_operand(other));
  wait_products<0>(s);
  pack(weights, s);
  begin_products(x, weights);
  begin_add_weighted<D, K>(x[0], weights[0], other);
  wait_products<0>(x, weights);
  u32 row = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4, column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (u32 e = 0; e < 4; e++) {
    u32 r = row + e / 2 * 8, c = column + e % 2;
#pragma unroll
    for (u32 n = 0; n < K / 8; n++) dots[r * K + 8 * n + c] = s[0][n][e];
#pragma unroll
    for (u32 n = 0; n < D / 8; n++) sums[r * D + 8 * n + c] = x[0][n][e];
  }
}
}  // namespace attention

#define ATTENTION_WGMMA_PRODUCTS(name, D, K)                                                                   \
  KERNEL(128, 1) attention_wgmma_products_##name(const bf16 *a, const bf16 *b, float *dots, float *sums) {     \
    attention::products<D, K>(a, b, dots, sums);                                                               \
  }                                                                                                            \
  REGISTER(attention_wgmma_products_##name)
#endif
