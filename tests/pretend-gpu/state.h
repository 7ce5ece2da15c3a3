// What libcuda.so.1's own files share.
#pragma once

#include "gpu.h"

#include <map>
#include <set>
#include <vector>

namespace pretend {

enum class Life { Promised, Here, Freed };

struct Allocation {
  size_t bytes;
  Gpu *gpu;
  Life life = Life::Promised;
  // Given back by the program, be its turn still to come.
  bool given_back = false;
};

// Memory of the GPU: what was given is full of NaN when its turn comes, and again when it is freed.
CUresult allocate(Address *address, size_t bytes, Stream *stream);
CUresult release(Address address, Stream *stream);
// Page-locked memory of the host.
CUresult pin(void **memory, size_t bytes);
CUresult unpin(void *memory);
bool is_pinned(const void *memory, size_t bytes);

struct Function;
// An image that cuModuleLoadData was given, for `cuModuleGetFunction`; null if it is none.
struct Module;
Module *load(const void *image);
// Null: the module has no such kernel.
Function *find(Module *module, const char *name);
CUresult set_shared(Function *function, int bytes);
CUresult launch(Function *function, const unsigned grid[3], const unsigned block[3], unsigned shared, Stream *stream, void **args);

// A kernel of candle's as a function of the host, and the bytes of each of its arguments.
struct HostKernel {
  std::vector<size_t> sizes;
  std::function<void(void *const *)> run;
};
const std::map<std::string, HostKernel> &candle_kernels();

// Counts a kernel that was done, and fails where the environment says so.
void count_launch();

std::vector<Gpu> &gpus();
std::set<Stream *> &streams();
// What is left at the process's end, in the file PRETEND_GPU_REPORT.
void report_memory(FILE *file);

}  // namespace pretend
