// libcublasLt: products of bf16 or f32 matrices, stored by columns, with a bias, in batches, added to what is there. What the library refuses is refused here.
#include "gpu.h"

#include <cstring>
#include <vector>

#define API extern "C" int

using namespace pretend;

namespace {
enum : int { DONE = 0, BAD_VALUE = 7, NOT_SUPPORTED = 15 };
enum : int { F32 = 0, BF16 = 14 };
constexpr int COMPUTE_F32 = 68;
constexpr unsigned EPILOGUE_NONE = 1, EPILOGUE_BIAS = 4;

size_t size_of(int type) { return type == BF16 ? 2 : 4; }
bool known(int type) { return type == BF16 || type == F32; }

// An attribute's value, if it has the size it must have.
template <typename T> int set(T &field, const void *value, size_t size) {
  if (value == nullptr || size != sizeof(T)) return BAD_VALUE;
  std::memcpy(&field, value, size);
  return DONE;
}
}  // namespace

struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t ld;
  int32_t batch = 1;
  int64_t step = 0;

  size_t last() const { return size_t((columns - 1) * uint64_t(ld) + rows) + size_t(batch - 1) * size_t(step); }
};

struct Desc {
  int32_t transposed[2] = {0, 0};
  uint32_t epilogue = EPILOGUE_NONE;
  Address bias = 0;
};

struct Preference {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

// What of a product an algorithm is for.
struct Algorithm {
  uint64_t product, workspace;
  uint32_t alignment[4];
  uint64_t unused[4];
};
static_assert(sizeof(Algorithm) == 64);

struct Found {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

namespace {
struct Product {
  Desc desc;
  Layout a, b, c, d;
};

uint64_t hash(const Product &p) {
  uint64_t h = 1469598103934665603u;
  auto mix = [&](uint64_t x) { h = (h ^ x) * 1099511628211u; };
  for (const Layout *x : {&p.a, &p.b, &p.c, &p.d})
    for (uint64_t word : {uint64_t(x->type), x->rows, x->columns, uint64_t(x->ld), uint64_t(x->batch)}) mix(word);
  for (uint64_t word : {uint64_t(p.desc.transposed[0]), uint64_t(p.desc.transposed[1]), uint64_t(p.desc.epilogue)}) mix(word);
  return h;
}

int check(const Product &p) {
  uint64_t m = p.d.rows, n = p.d.columns, k = p.desc.transposed[0] ? p.a.rows : p.a.columns;
  const Layout *all[] = {&p.a, &p.b, &p.c, &p.d};
  for (const Layout *x : all)
    if (x->rows == 0 || x->columns == 0 || x->ld < int64_t(x->rows) || x->batch < 1 || x->batch != p.d.batch) return BAD_VALUE;
  if ((p.desc.transposed[0] ? p.a.columns : p.a.rows) != m || (p.desc.transposed[1] ? p.b.columns : p.b.rows) != k) return BAD_VALUE;
  if ((p.desc.transposed[1] ? p.b.rows : p.b.columns) != n || p.c.rows != m || p.c.columns != n) return BAD_VALUE;
  if (p.a.type != p.b.type || p.c.type != p.d.type || (p.a.type == F32 && p.d.type == BF16)) return NOT_SUPPORTED;
  if (p.desc.epilogue != EPILOGUE_NONE && p.desc.epilogue != EPILOGUE_BIAS) return NOT_SUPPORTED;
  return DONE;
}

float get(const uint8_t *at, int type) {
  uint32_t word = 0;
  if (type == BF16) {
    uint16_t half;
    std::memcpy(&half, at, 2);
    word = uint32_t(half) << 16;
  } else {
    std::memcpy(&word, at, 4);
  }
  float x;
  std::memcpy(&x, &word, 4);
  return x;
}

void put(uint8_t *at, int type, float x) {
  uint32_t word;
  std::memcpy(&word, &x, 4);
  if (type == F32) return void(std::memcpy(at, &word, 4));
  uint16_t half = (word & 0x7fffffffu) > 0x7f800000u ? 0x7fff : uint16_t((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  std::memcpy(at, &half, 2);
}

// The `rows` by `columns` numbers of a matrix, transposed if so, with those of a column side by side.
std::vector<float> read(const Layout &x, Address at, bool transposed, uint64_t rows, uint64_t columns) {
  const auto *bytes = reinterpret_cast<const uint8_t *>(at);
  std::vector<float> out(rows * columns);
  size_t size = size_of(x.type);
  for (uint64_t j = 0; j < columns; j++)
    for (uint64_t i = 0; i < rows; i++) {
      uint64_t element = transposed ? i * uint64_t(x.ld) + j : j * uint64_t(x.ld) + i;
      out[j * rows + i] = get(bytes + element * size, x.type);
    }
  return out;
}

struct Operands {
  Address a, b, c, d;
  float alpha, beta;
};

void multiply(const Product &p, const Operands &at) {
  uint64_t m = p.d.rows, n = p.d.columns, k = p.desc.transposed[0] ? p.a.rows : p.a.columns;
  size_t to_size = size_of(p.d.type);
  for (int64_t batch = 0; batch < p.d.batch; batch++) {
    auto begin = [&](Address base, const Layout &x) { return base + Address(batch * x.step) * size_of(x.type); };
    std::vector<float> a = read(p.a, begin(at.a, p.a), p.desc.transposed[0], m, k), b = read(p.b, begin(at.b, p.b), p.desc.transposed[1], k, n), sum(m);
    const auto *bias = reinterpret_cast<const uint8_t *>(p.desc.bias);
    for (uint64_t j = 0; j < n; j++) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (uint64_t l = 0; l < k; l++) {
        float factor = b[j * k + l];
        const float *column = &a[l * m];
        for (uint64_t i = 0; i < m; i++) sum[i] += factor * column[i];
      }
      for (uint64_t i = 0; i < m; i++) {
        float x = at.alpha * sum[i];
        if (at.beta != 0) x += at.beta * get(reinterpret_cast<const uint8_t *>(begin(at.c, p.c)) + (j * uint64_t(p.c.ld) + i) * to_size, p.c.type);
        if (p.desc.epilogue == EPILOGUE_BIAS) x += get(bias + i * to_size, p.d.type);
        put(reinterpret_cast<uint8_t *>(begin(at.d, p.d)) + (j * uint64_t(p.d.ld) + i) * to_size, p.d.type, x);
      }
    }
  }
}

bool operands_are_there(const Product &p, const Operands &at) {
  auto there = [](const Layout &x, Address address, const char *who) { return is_there(address, x.last() * size_of(x.type), who); };
  bool bias = p.desc.epilogue != EPILOGUE_BIAS || is_there(p.desc.bias, p.d.rows * size_of(p.d.type), "a product's bias");
  return bias && there(p.a, at.a, "a product's first operand") && there(p.b, at.b, "a product's second operand") && there(p.d, at.d, "a product's result");
}
}  // namespace

API cublasLtCreate(void **handle) {
  static int one;
  *handle = &one;
  return DONE;
}
API cublasLtDestroy(void *) { return DONE; }

API cublasLtMatrixLayoutCreate(Layout **layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  if (!known(type)) return NOT_SUPPORTED;
  *layout = new Layout{type, rows, columns, ld};
  return DONE;
}
API cublasLtMatrixLayoutSetAttribute(Layout *layout, int attribute, const void *value, size_t size) {
  if (attribute == 5) return set(layout->batch, value, size);
  return attribute == 6 ? set(layout->step, value, size) : BAD_VALUE;
}
API cublasLtMatrixLayoutDestroy(Layout *layout) {
  delete layout;
  return DONE;
}

API cublasLtMatmulDescCreate(Desc **desc, int compute, int scale) {
  if (compute != COMPUTE_F32 || scale != F32) return NOT_SUPPORTED;
  *desc = new Desc;
  return DONE;
}
API cublasLtMatmulDescSetAttribute(Desc *desc, int attribute, const void *value, size_t size) {
  switch (attribute) {
    case 3: return set(desc->transposed[0], value, size);
    case 4: return set(desc->transposed[1], value, size);
    case 7: return set(desc->epilogue, value, size);
    case 8: return set(desc->bias, value, size);
  }
  return BAD_VALUE;
}
API cublasLtMatmulDescDestroy(Desc *desc) {
  delete desc;
  return DONE;
}

API cublasLtMatmulPreferenceCreate(Preference **preference) {
  *preference = new Preference;
  return DONE;
}
API cublasLtMatmulPreferenceSetAttribute(Preference *preference, int attribute, const void *value, size_t size) {
  if (attribute == 1) return set(preference->workspace, value, size);
  return attribute >= 5 && attribute <= 8 ? set(preference->alignment[attribute - 5], value, size) : BAD_VALUE;
}
API cublasLtMatmulPreferenceDestroy(Preference *preference) {
  delete preference;
  return DONE;
}

API cublasLtMatmulAlgoGetHeuristic(void *, Desc *desc, Layout *a, Layout *b, Layout *c, Layout *d, Preference *preference, int wanted, Found *found, int *count) {
  Product product{*desc, *a, *b, *c, *d};
  *count = 0;
  int code = check(product);
  if (code != DONE || wanted < 1) return code == DONE ? BAD_VALUE : code;
  const Layout *all[] = {a, b, c, d};
  for (int i = 0; i < 4; i++)
    if (preference->alignment[i] < size_of(all[i]->type)) return NOT_SUPPORTED;
  *found = Found{};
  found->algorithm.product = hash(product);
  // Half of what it may have, as a large one would.
  found->algorithm.workspace = found->workspace = preference->workspace / 2;
  std::memcpy(found->algorithm.alignment, preference->alignment, sizeof preference->alignment);
  *count = 1;
  return DONE;
}

API cublasLtMatmul(void *, Desc *desc, const void *alpha, Address a, Layout *la, Address b, Layout *lb, const void *beta, Address c, Layout *lc, Address d, Layout *ld,
                   const Algorithm *algorithm, Address workspace, size_t workspace_size, Stream *stream) {
  Product product{*desc, *la, *lb, *lc, *ld};
  int code = check(product);
  if (code != DONE) return code;
  // An algorithm for another product, or for operands better aligned than these.
  if (algorithm->product != hash(product) || workspace_size < algorithm->workspace || workspace % 16 != 0) return BAD_VALUE;
  const Address at[] = {a, b, c, d};
  for (int i = 0; i < 4; i++)
    if (at[i] == 0 || at[i] % algorithm->alignment[i] != 0) return BAD_VALUE;
  if (product.desc.epilogue == EPILOGUE_BIAS && product.desc.bias == 0) return BAD_VALUE;
  Operands operands{a, b, c, d, 0, 0};
  std::memcpy(&operands.alpha, alpha, 4);
  std::memcpy(&operands.beta, beta, 4);
  if (operands.beta != 0 && c != d) return NOT_SUPPORTED;
  std::lock_guard<std::recursive_mutex> held(mutex());
  enqueue(stream, [=] {
    if (!is_there(workspace, workspace_size, "a product's workspace") || !operands_are_there(product, operands)) return true;
    // What it leaves there is of no use to others.
    std::memset(reinterpret_cast<void *>(workspace), 0xff, 64);
    multiply(product, operands);
    return true;
  });
  return DONE;
}
