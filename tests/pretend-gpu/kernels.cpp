// Kernels by name: echat's own as host C++ (kernels/src/cuda/emulate.h), candle's as functions of the host.
#include "state.h"

#include <cstring>

using u32 = uint32_t;
extern "C" int echat_emulate(const char *name, const u32 *grid, u32 threads, size_t shared, void *const *args, const u32 *kinds, u32 count);
extern "C" const u32 *echat_emulated_kinds(const char *name, u32 *count);

namespace pretend {
namespace {
// Dynamic shared memory that a block may have without asking, and with, as on H100, were all kernels to declare as much themselves as the one with most beside it.
constexpr int DECLARED = 2 << 10;
constexpr int SHARED_FOR_FREE = (48 << 10) - DECLARED;
constexpr int SHARED_AT_MOST = (227 << 10) - DECLARED;
// The kinds of `emulate.h` from which on arguments are pointers, and structs of pointers of so many.
constexpr u32 POINTERS = 11, MANY = 21;
constexpr size_t MAX_TENSORS = 64;

size_t size_of_kind(u32 kind) {
  if (kind >= MANY) return MAX_TENSORS * sizeof(Address);
  return kind <= 3 ? 4 : 8;
}
}  // namespace

struct Module {
  // The source that nvrtc.cpp was given, which lists the kernels it has; of candle's modules nothing.
  std::string text;
};

struct Function {
  std::string name;
  std::vector<size_t> sizes;
  const u32 *kinds = nullptr;
  const HostKernel *host = nullptr;
  int shared = SHARED_FOR_FREE;
};

Module *load(const void *image) { return new Module{static_cast<const char *>(image)}; }

Function *find(Module *module, const char *name) {
  auto *function = new Function;
  function->name = name;
  u32 count = 0;
  auto host = candle_kernels().find(name);
  if (module->text.empty() && host != candle_kernels().end()) {
    function->host = &host->second;
    function->sizes = host->second.sizes;
    return function;
  }
  function->kinds = echat_emulated_kinds(name, &count);
  bool listed = module->text.find("REGISTER(") != std::string::npos;
  if (listed && function->kinds != nullptr) {
    for (u32 i = 0; i < count; i++) function->sizes.push_back(size_of_kind(function->kinds[i]));
    return function;
  }
  std::fprintf(stderr, "pretend GPU: there is no kernel %s\n", name);
  delete function;
  return nullptr;
}

CUresult set_shared(Function *function, int bytes) {
  if (bytes < 0 || bytes > SHARED_AT_MOST) return INVALID_VALUE;
  function->shared = std::max(bytes, SHARED_FOR_FREE);
  return SUCCESS;
}

// Whether what the arguments point to is there.
static bool operands_are_there(const Function &function, void *const *args) {
  for (size_t i = 0; function.kinds != nullptr && i < function.sizes.size(); i++) {
    if (function.kinds[i] < POINTERS) continue;
    size_t count = function.kinds[i] >= MANY ? MAX_TENSORS : 1;
    for (size_t k = 0; k < count; k++) {
      Address address = static_cast<const Address *>(args[i])[k];
      if (address != 0 && !is_there(address, 1, "kernel " + function.name + ", argument " + std::to_string(i))) return false;
    }
  }
  return true;
}

CUresult launch(Function *function, const unsigned grid[3], const unsigned block[3], unsigned shared, Stream *stream, void **args) {
  if (block[0] == 0 || block[0] * block[1] * block[2] > 1024 || grid[0] == 0 || grid[1] == 0 || grid[2] == 0) return INVALID_VALUE;
  if (grid[1] > 65535 || grid[2] > 65535 || grid[0] > 0x7fffffffu || shared > unsigned(function->shared)) return INVALID_VALUE;
  // The driver copies the arguments.
  std::vector<std::vector<Address>> held;
  for (size_t i = 0; i < function->sizes.size(); i++) {
    held.emplace_back((function->sizes[i] + 7) / 8);
    std::memcpy(held[i].data(), args[i], function->sizes[i]);
  }
  u32 blocks[3] = {grid[0], grid[1], grid[2]}, threads = block[0];
  enqueue(stream, [=]() mutable {
    std::vector<void *> pointers;
    for (auto &words : held) pointers.push_back(words.data());
    if (!operands_are_there(*function, pointers.data())) return true;
    if (function->host != nullptr) function->host->run(pointers.data());
    else echat_emulate(function->name.c_str(), blocks, threads, shared, pointers.data(), function->kinds, u32(pointers.size()));
    count_launch();
    return true;
  });
  return SUCCESS;
}
}  // namespace pretend
