// libcuda.so.1: the functions of the driver that echat, candle and cudarc call. One that is not here ends the program with its name, in cudarc.
//
// PRETEND_GPUS (1): how many there are. PRETEND_GPU_MEMORY (MiB): of each. PRETEND_GPU_CAPABILITY (9.0). PRETEND_GPU_NAMES: of each, by commas. PRETEND_GPU_DRIVER
// (13000): the CUDA version it is for. PRETEND_GPU_FAULT (CODE@N, or CODE@N:RANK): what all calls return once N kernels were done. PRETEND_GPU_REPORT: a file that
// gets a line at the process's end. PRETEND_GPU_ORDER: gpu.h.
#include "state.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#define API extern "C" __attribute__((visibility("default"))) CUresult
// Of every call that needs a GPU that works.
#define ENTER \
  std::lock_guard<std::recursive_mutex> held(mutex()); \
  if (!begun) return NOT_INITIALIZED; \
  if (fault() != SUCCESS) return fault();
#define IN_CONTEXT \
  ENTER \
  if (context == nullptr) return INVALID_CONTEXT;

using namespace pretend;

namespace {
bool begun = false;
thread_local Gpu *context = nullptr;
struct Pool;

int number_of(const char *name, int otherwise) {
  const char *value = variable(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

double now() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

bool is_gpu(int device) { return device >= 0 && size_t(device) < gpus().size(); }

Stream *new_stream(Gpu *gpu) {
  auto *stream = new Stream;
  stream->gpu = gpu;
  streams().insert(stream);
  return stream;
}

struct Named {
  CUresult code;
  const char *name, *text;
};
constexpr Named NAMES[] = {
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};
}  // namespace

namespace pretend {
std::vector<Gpu> &gpus() {
  static auto *all = [] {
    auto *made = new std::vector<Gpu>;
    std::istringstream names(variable("PRETEND_GPU_NAMES") == nullptr ? "" : variable("PRETEND_GPU_NAMES"));
    for (int i = 0; i < number_of("PRETEND_GPUS", 1); i++) {
      std::string name;
      if (!std::getline(names, name, ',')) name = "Pretend GPU";
      made->push_back(Gpu{i, name, size_t(number_of("PRETEND_GPU_MEMORY", 4096)) << 20});
    }
    return made;
  }();
  return *all;
}
}  // namespace pretend

// ---- What there is ----

API cuGetErrorName(CUresult code, const char **name) {
  for (const Named &known : NAMES)
    if (known.code == code) return *name = known.name, SUCCESS;
  return INVALID_VALUE;
}
API cuGetErrorString(CUresult code, const char **text) {
  for (const Named &known : NAMES)
    if (known.code == code) return *text = known.text, SUCCESS;
  return INVALID_VALUE;
}
API cuInit(unsigned) {
  std::lock_guard<std::recursive_mutex> held(mutex());
  if (gpus().empty()) return NO_DEVICE;
  begun = true;
  return SUCCESS;
}
API cuDriverGetVersion(int *version) {
  *version = number_of("PRETEND_GPU_DRIVER", 13000);
  return SUCCESS;
}
API cuDeviceGetCount(int *count) {
  ENTER
  *count = int(gpus().size());
  return SUCCESS;
}
API cuDeviceGet(int *device, int ordinal) {
  ENTER
  if (!is_gpu(ordinal)) return INVALID_DEVICE;
  *device = ordinal;
  return SUCCESS;
}
API cuDeviceGetName(char *name, int length, int device) {
  ENTER
  if (!is_gpu(device)) return INVALID_DEVICE;
  std::snprintf(name, size_t(length), "%s", gpus()[size_t(device)].name.c_str());
  return SUCCESS;
}
API cuDeviceGetUuid_v2(char uuid[16], int device) {
  ENTER
  if (!is_gpu(device)) return INVALID_DEVICE;
  std::memset(uuid, 0, 16);
  uuid[15] = char(device + 1);
  return SUCCESS;
}
API cuDeviceGetAttribute(int *value, int attribute, int device) {
  ENTER
  if (!is_gpu(device)) return INVALID_DEVICE;
  int major = 9, minor = 0;
  if (variable("PRETEND_GPU_CAPABILITY") != nullptr) std::sscanf(variable("PRETEND_GPU_CAPABILITY"), "%d.%d", &major, &minor);
  switch (attribute) {
    case 16: *value = 132; return SUCCESS;          // processors
    case 75: *value = major; return SUCCESS;
    case 76: *value = minor; return SUCCESS;
    case 97: *value = 227 << 10; return SUCCESS;    // shared memory of a block that asks
    case 115: *value = 1; return SUCCESS;           // pools
  }
  std::fprintf(stderr, "pretend GPU: it does not know its attribute %d\n", attribute);
  return INVALID_VALUE;
}

// ---- Contexts: there is the primary one of each GPU ----

API cuDevicePrimaryCtxRetain(Gpu **gpu, int device) {
  ENTER
  if (!is_gpu(device)) return INVALID_DEVICE;
  *gpu = &gpus()[size_t(device)];
  return SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuCtxSetCurrent(Gpu *gpu) {
  ENTER
  context = gpu;
  return SUCCESS;
}
API cuCtxGetCurrent(Gpu **gpu) {
  ENTER
  *gpu = context;
  return SUCCESS;
}
API cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  IN_CONTEXT
  *least = 0;
  *greatest = -5;
  return SUCCESS;
}
API cuCtxSynchronize() {
  IN_CONTEXT
  return wait_all(context);
}

// ---- Streams and events ----

API cuStreamCreate(Stream **stream, unsigned) {
  IN_CONTEXT
  *stream = new_stream(context);
  return SUCCESS;
}
API cuStreamCreateWithPriority(Stream **stream, unsigned, int) {
  IN_CONTEXT
  *stream = new_stream(context);
  const char *order = variable("PRETEND_GPU_ORDER");
  (*stream)->early = order != nullptr && std::strcmp(order, "early") == 0;
  return SUCCESS;
}
// What is on it goes on.
API cuStreamDestroy_v2(Stream *stream) {
  ENTER
  return streams().count(stream) == 1 ? SUCCESS : INVALID_HANDLE;
}
API cuStreamSynchronize(Stream *stream) {
  ENTER
  return wait(end_of(stream));
}
API cuStreamWaitEvent(Stream *stream, Event *event, unsigned) {
  ENTER
  wait_for(stream, event->place);
  return SUCCESS;
}
// 0: not capturing.
API cuStreamIsCapturing(Stream *, int *status) {
  ENTER
  *status = 0;
  return SUCCESS;
}
API cuEventCreate(Event **event, unsigned flags) {
  IN_CONTEXT
  *event = new Event;
  (*event)->timed = (flags & 2) == 0;
  return SUCCESS;
}
// Its time may still be to come.
API cuEventDestroy_v2(Event *) {
  ENTER
  return SUCCESS;
}
API cuEventRecord(Event *event, Stream *stream) {
  ENTER
  enqueue(stream, [=] {
    event->milliseconds = now();
    return true;
  });
  event->place = end_of(stream);
  event->looks = 0;
  return SUCCESS;
}
// Who only looks sees it come after some time.
API cuEventQuery(Event *event) {
  ENTER
  Place place = event->place;
  if (place.stream == nullptr || place.stream->done >= place.number) return SUCCESS;
  if (event->looks++ < 3) return NOT_READY;
  bool reached = reach(place);
  return fault() != SUCCESS ? fault() : reached ? SUCCESS : NOT_READY;
}
API cuEventSynchronize(Event *event) {
  ENTER
  return wait(event->place);
}
API cuEventElapsedTime_v2(float *milliseconds, Event *start, Event *end) {
  ENTER
  if (!start->timed || !end->timed || start->place.stream == nullptr || end->place.stream == nullptr) return INVALID_HANDLE;
  for (Event *event : {start, end})
    if (event->place.stream->done < event->place.number) return NOT_READY;
  *milliseconds = float(end->milliseconds - start->milliseconds);
  return SUCCESS;
}

// ---- Memory ----

API cuMemAllocAsync(Address *address, size_t bytes, Stream *stream) {
  ENTER
  return allocate(address, bytes, stream);
}
API cuMemFreeAsync(Address address, Stream *stream) {
  ENTER
  return release(address, stream);
}
API cuMemGetInfo_v2(size_t *unused, size_t *total) {
  IN_CONTEXT
  *unused = context->total - context->used;
  *total = context->total;
  return SUCCESS;
}
API cuDeviceGetDefaultMemPool(Pool **pool, int device) {
  ENTER
  if (!is_gpu(device)) return INVALID_DEVICE;
  *pool = reinterpret_cast<Pool *>(&gpus()[size_t(device)]);
  return SUCCESS;
}
API cuMemPoolSetAttribute(Pool *pool, int attribute, void *value) {
  ENTER
  auto *gpu = reinterpret_cast<Gpu *>(pool);
  if (attribute == 4) return SUCCESS;  // When memory goes back to the system.
  if (attribute != 8 || *static_cast<uint64_t *>(value) != 0) return INVALID_VALUE;
  gpu->most = gpu->used;
  return SUCCESS;
}
API cuMemPoolGetAttribute(Pool *pool, int attribute, void *value) {
  ENTER
  if (attribute != 8) return INVALID_VALUE;
  *static_cast<uint64_t *>(value) = reinterpret_cast<Gpu *>(pool)->most;
  return SUCCESS;
}
API cuMemHostAlloc(void **memory, size_t bytes, unsigned) {
  IN_CONTEXT
  return pin(memory, bytes);
}
API cuMemFreeHost(void *memory) {
  ENTER
  return unpin(memory);
}

API cuMemsetD8Async(Address address, unsigned char value, size_t bytes, Stream *stream) {
  ENTER
  enqueue(stream, [=] {
    if (is_there(address, bytes, "memset")) std::memset(reinterpret_cast<void *>(address), value, bytes);
    return true;
  });
  return SUCCESS;
}
API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream *stream) {
  ENTER
  enqueue(stream, [=] {
    if (is_there(from, bytes, "a copy's source") && is_there(to, bytes, "a copy's target"))
      std::memmove(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes);
    return true;
  });
  return SUCCESS;
}
// Read now if the driver has to bring it to memory of its own first, else when its turn comes.
API cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, Stream *stream) {
  ENTER
  std::vector<uint8_t> now;
  bool pinned = is_pinned(from, bytes);
  if (!pinned) now.assign(static_cast<const uint8_t *>(from), static_cast<const uint8_t *>(from) + bytes);
  enqueue(stream, [=, now = std::move(now)] {
    if (pinned && !is_pinned(from, bytes)) fail(ILLEGAL_ADDRESS, "page-locked memory was freed before it was copied");
    else if (is_there(to, bytes, "an upload")) std::memcpy(reinterpret_cast<void *>(to), pinned ? from : now.data(), bytes);
    return true;
  });
  return SUCCESS;
}
// Waits if the memory is not page-locked.
API cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, Stream *stream) {
  ENTER
  bool pinned = is_pinned(to, bytes);
  // Nobody may look there before it has arrived.
  std::memset(to, 0xff, bytes);
  enqueue(stream, [=] {
    if (pinned && !is_pinned(to, bytes)) fail(ILLEGAL_ADDRESS, "page-locked memory was freed before a copy to it arrived");
    else if (is_there(from, bytes, "a download")) std::memcpy(to, reinterpret_cast<void *>(from), bytes);
    return true;
  });
  return pinned ? SUCCESS : wait(end_of(stream));
}

// ---- Kernels ----

API cuModuleLoadData(Module **module, const void *image) {
  IN_CONTEXT
  // What it is given is of toolkit 13.0.
  if (number_of("PRETEND_GPU_DRIVER", 13000) < 13000) return UNSUPPORTED_PTX_VERSION;
  *module = load(image);
  return SUCCESS;
}
API cuModuleUnload(Module *) { return SUCCESS; }
API cuModuleGetFunction(Function **function, Module *module, const char *name) {
  IN_CONTEXT
  *function = find(module, name);
  return *function == nullptr ? NOT_FOUND : SUCCESS;
}
API cuFuncSetAttribute(Function *function, int attribute, int value) {
  IN_CONTEXT
  return attribute == 8 ? set_shared(function, value) : INVALID_VALUE;
}
API cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Stream *stream, void **args,
                   void **) {
  IN_CONTEXT
  const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
  return launch(function, grid, block, shared, stream, args);
}
