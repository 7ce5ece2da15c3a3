// Rotary embedding. A thread has a pack of pairs (of the first half of a head and of the second) in the rows of a tile.
#include "../cuda/common.cuh"

namespace {
// Rows that a thread has under way.
constexpr u32 AHEAD = 2;

// Of the pair (a, b), turned by the angle whose cosine and sine are `c` and `s`, the first and the second.
DEVICE float first_of(float a, float b, float c, float s) { return a * c - b * s; }
DEVICE float second_of(float a, float b, float c, float s) { return b * c + a * s; }

// Where no pack lies within one head: pairs `pair` and on of a row, one by one.
template <typename T>
DEVICE void turn_loose(const T *x, const float *cos, const float *sin, T *y, u32 pair, u32 pairs, u32 half, float sign) {
  for (u32 p = pair; p < least(pair + Pack<T>::N, pairs); p++) {
    u32 j = p % half, i = p / half * 2 * half + j;
    float a = to_float(x[i]), b = to_float(x[i + half]);
    y[i] = from_float<T>(first_of(a, b, cos[j], sin[j] * sign));
    y[i + half] = from_float<T>(second_of(a, b, cos[j], sin[j] * sign));
  }
}

// Rows of x [rows, heads, 2 half] by their positions; angles [2, table, half] holds cosines and sines.
template <typename T>
DEVICE void turn(const T *x, const u32 *positions, const float *angles, T *y, u32 rows, u32 heads, u32 half, u32 table, float sign) {
  constexpr u32 N = Pack<T>::N, F = Pack<float>::N;
  u32 pair = tile_column<T>(), pairs = heads * half;
  if (pair >= pairs) return;
  const float *cos = angles, *sin = angles + u64(table) * half;
  bool packed = in_packs(x, half) && in_packs(y, half) && in_packs(cos, half);
  u64 first = u64(blockIdx.x) * TILE_ROWS, last = least(first + TILE_ROWS, u64(rows)), width = 2 * u64(pairs);
  if (!packed) {
    for (u64 row = first; row < last; row++) {
      u64 at = u64(positions[row]) * half;
      turn_loose(x + row * width, cos + at, sin + at, y + row * width, pair, pairs, half, sign);
    }
    return;
  }
  u32 j = pair % half, i = pair / half * 2 * half + j;
  for (u64 row = first; row < last; row += AHEAD) {
    Pack<T> as[AHEAD], bs[AHEAD];
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++) {
      if (row + r >= last) continue;
      as[r] = load_pack(x + (row + r) * width + i);
      bs[r] = load_pack(x + (row + r) * width + i + half);
    }
#pragma unroll
    for (u32 r = 0; r < AHEAD; r++) {
      if (row + r >= last) continue;
      // All heads read the angles: through the cache.
      u64 at = u64(positions[row + r]) * half + j;
      for (u32 k = 0; k < N; k += F) {
        Pack<float> c = *reinterpret_cast<const Pack<float> *>(cos + at + k);
        Pack<float> s = *reinterpret_cast<const Pack<float> *>(sin + at + k);
        for (u32 f = 0; f < F; f++) {
          float a = to_float(as[r].x[k + f]), b = to_float(bs[r].x[k + f]);
          as[r].x[k + f] = from_float<T>(first_of(a, b, c.x[f], s.x[f] * sign));
          bs[r].x[k + f] = from_float<T>(second_of(a, b, c.x[f], s.x[f] * sign));
        }
      }
      store_pack(y + (row + r) * width + i, as[r]);
      store_pack(y + (row + r) * width + i + half, bs[r]);
    }
  }
}
}  // namespace

#define ROPE(T, name)                                                                                                  \
  KERNEL(256, 4)                                                                                                       \
  rope_##name(const T *x, const u32 *positions, const float *angles, T *y, u32 rows, u32 heads, u32 half, u32 table,   \
              float sign) {                                                                                            \
    turn(x, positions, angles, y, rows, heads, half, table, sign);                                                     \
  }                                                                                                                    \
  REGISTER(rope_##name)

ROPE(float, f32)
ROPE(bf16, bf16)
