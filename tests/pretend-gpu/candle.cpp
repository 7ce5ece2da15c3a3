// candle's own kernels, as many of them as echat reaches, as functions of the host. Each is given what candle-kernels' source of that name takes.
#include "state.h"

#include <cstring>

namespace pretend {
namespace {
struct Bf16 {
  uint16_t bits;
  operator float() const {
    uint32_t word = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &word, 4);
    return x;
  }
  Bf16() = default;
  Bf16(float x) {
    uint32_t word;
    std::memcpy(&word, &x, 4);
    bits = (word & 0x7fffffffu) > 0x7f800000u ? 0x7fff : uint16_t((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
};

template <typename T> T value(const void *arg) {
  T x;
  std::memcpy(&x, arg, sizeof x);
  return x;
}

// `count` numbers where the argument points to; null if they are not there.
template <typename T> T *numbers(const void *arg, size_t count, const char *who) {
  auto address = value<Address>(arg);
  return is_there(address, count * sizeof(T), std::string("candle's ") + who) ? reinterpret_cast<T *>(address) : nullptr;
}

// Where the numbers of a tensor lie, one after the other in the order of its shape.
struct Layout {
  std::vector<size_t> dims, strides;

  // Of dims and, `nth` of them, strides on the GPU; without, the tensor lies in order.
  Layout(const void *dims_arg, const void *info_arg, size_t nth = 1) {
    auto info = value<Address>(info_arg);
    auto count = value<size_t>(dims_arg);
    if (info == 0 || !is_there(info, (nth + 1) * count * sizeof(size_t), "candle's shape")) return;
    auto *words = reinterpret_cast<const size_t *>(info);
    dims.assign(words, words + count);
    strides.assign(words + nth * count, words + (nth + 1) * count);
  }

  size_t operator()(size_t i) const {
    if (dims.empty()) return i;
    size_t at = 0;
    for (size_t d = dims.size(); d-- > 0; i /= dims[d]) at += i % dims[d] * strides[d];
    return at;
  }

  size_t last(size_t count) const {
    size_t at = 0;
    for (size_t d = 0; d < dims.size(); d++) at += (dims[d] - 1) * strides[d];
    return dims.empty() ? count : at + 1;
  }
};

// (count, dims, shape and strides, from, to, ...): to[i] = f(from[i], rest of the arguments).
template <typename S, typename T, typename F> HostKernel each(const char *who, std::vector<size_t> rest, F f) {
  std::vector<size_t> sizes{8, 8, 8, 8, 8};
  sizes.insert(sizes.end(), rest.begin(), rest.end());
  return {sizes, [=](void *const *args) {
    auto count = value<size_t>(args[0]);
    Layout layout(args[1], args[2]);
    const S *from = numbers<S>(args[3], layout.last(count), who);
    T *to = numbers<T>(args[4], count, who);
    if (from == nullptr || to == nullptr) return;
    auto one = f(args + 5);
    if (layout.dims.empty()) for (size_t i = 0; i < count; i++) to[i] = one(from[i]);
    else for (size_t i = 0; i < count; i++) to[i] = one(from[layout(i)]);
  }};
}

template <typename T> HostKernel affine() {
  return each<T, T>("affine", {sizeof(T), sizeof(T)}, [](void *const *rest) {
    auto mul = value<T>(rest[0]), add = value<T>(rest[1]);
    return [=](T x) { return T(T(x * mul) + add); };
  });
}

template <typename S, typename T> HostKernel cast() {
  return each<S, T>("cast", {}, [](void *const *) { return [](S x) { return T(x); }; });
}

template <typename T> HostKernel copy() { return cast<T, T>(); }

template <typename T> HostKernel copy2d() {
  return {{8, 8, 4, 4, 4, 4}, [](void *const *args) {
    size_t rows = value<uint32_t>(args[2]), columns = value<uint32_t>(args[3]), from_row = value<uint32_t>(args[4]), to_row = value<uint32_t>(args[5]);
    const T *from = numbers<T>(args[0], (rows - 1) * from_row + columns, "copy2d");
    T *to = numbers<T>(args[1], (rows - 1) * to_row + columns, "copy2d");
    if (from == nullptr || to == nullptr) return;
    for (size_t i = 0; i < rows; i++) std::memcpy(to + i * to_row, from + i * from_row, columns * sizeof(T));
  }};
}

template <typename T> HostKernel add() {
  return {{8, 8, 8, 8, 8, 8}, [](void *const *args) {
    auto count = value<size_t>(args[0]);
    Layout left(args[1], args[2], 1), right(args[1], args[2], 2);
    const T *a = numbers<T>(args[3], left.last(count), "add"), *b = numbers<T>(args[4], right.last(count), "add");
    T *to = numbers<T>(args[5], count, "add");
    for (size_t i = 0; a && b && to && i < count; i++) to[i] = T(a[left(i)] + b[right(i)]);
  }};
}

template <typename T> HostKernel index_select() {
  return {{8, 8, 8, 8, 8, 8, 8, 8, 8, 8}, [](void *const *args) {
    auto count = value<size_t>(args[0]), rows = value<size_t>(args[7]), ids_count = value<size_t>(args[8]), width = value<size_t>(args[9]);
    const auto *ids = numbers<uint32_t>(args[3], ids_count, "index_select");
    const T *from = numbers<T>(args[4], value<size_t>(args[6]) * rows * width, "index_select");
    T *to = numbers<T>(args[5], count, "index_select");
    for (size_t i = 0; ids && from && to && i < count; i++) {
      size_t id = ids[i / width % ids_count];
      if (id >= rows) return fail(ILLEGAL_ADDRESS, "candle's index_select: row " + std::to_string(id) + " of " + std::to_string(rows));
      to[i] = from[(i / (ids_count * width) * rows + id) * width + i % width];
    }
  }};
}

template <typename T> void of_type(std::map<std::string, HostKernel> &all, const std::string &name) {
  all["affine_" + name] = affine<T>();
  all["ucopy_" + name] = copy<T>();
  all["copy2d_" + name] = copy2d<T>();
  all["badd_" + name] = add<T>();
  all["is_u32_" + name] = index_select<T>();
  all["cast_" + name + "_f32"] = cast<T, float>();
  all["cast_" + name + "_f64"] = cast<T, double>();
  all["cast_" + name + "_bf16"] = cast<T, Bf16>();
}
}  // namespace

const std::map<std::string, HostKernel> &candle_kernels() {
  static auto *all = [] {
    auto *made = new std::map<std::string, HostKernel>;
    of_type<float>(*made, "f32");
    of_type<double>(*made, "f64");
    of_type<Bf16>(*made, "bf16");
    return made;
  }();
  return *all;
}
}  // namespace pretend
