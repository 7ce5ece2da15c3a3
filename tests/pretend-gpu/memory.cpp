// Memory of GPUs, which is memory of the host with guards around it, and page-locked memory.
#include "state.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace pretend {
namespace {
// Bytes before and behind each allocation, and what is in them.
constexpr size_t GUARD = 256;
constexpr int PATTERN = 0xa5;
// Every byte of a NaN, in all types.
constexpr int NANS = 0xff;
// Freed memory that is kept a while, so that its address means nothing else.
constexpr size_t KEPT = 64 << 20;

std::map<Address, Allocation> &allocations() {
  static auto *all = new std::map<Address, Allocation>;
  return *all;
}
std::map<uintptr_t, size_t> &pinned() {
  static auto *all = new std::map<uintptr_t, size_t>;
  return *all;
}

uint8_t *bytes_at(Address address) { return reinterpret_cast<uint8_t *>(address); }

std::string hex(Address address) {
  char text[32];
  std::snprintf(text, sizeof text, "%#llx", address);
  return text;
}

void forget_oldest(Address newest) {
  static std::deque<std::pair<Address, size_t>> freed;
  static size_t kept = 0;
  freed.emplace_back(newest, allocations()[newest].bytes);
  kept += freed.back().second;
  while (kept > KEPT || freed.size() > 4096) {
    auto [address, bytes] = freed.front();
    freed.pop_front();
    kept -= bytes;
    allocations().erase(address);
    std::free(bytes_at(address) - GUARD);
  }
}

bool guards_hold(Address address, size_t bytes) {
  for (size_t i = 0; i < GUARD; i++)
    if (bytes_at(address)[bytes + i] != PATTERN || *(bytes_at(address) - 1 - i) != PATTERN) return false;
  return true;
}
}  // namespace

CUresult allocate(Address *address, size_t bytes, Stream *stream) {
  Gpu *gpu = stream->gpu;
  if (bytes == 0 || address == nullptr) return INVALID_VALUE;
  if (bytes > gpu->total - gpu->used) return OUT_OF_MEMORY;
  void *memory = nullptr;
  if (posix_memalign(&memory, GUARD, bytes + 2 * GUARD) != 0) return OUT_OF_MEMORY;
  std::memset(memory, PATTERN, GUARD);
  std::memset(static_cast<uint8_t *>(memory) + GUARD + bytes, PATTERN, GUARD);
  *address = reinterpret_cast<Address>(memory) + GUARD;
  gpu->used += bytes;
  gpu->most = std::max(gpu->most, gpu->used);
  Address at = *address;
  Allocation allocation;
  allocation.bytes = bytes;
  allocation.gpu = gpu;
  allocations()[at] = allocation;
  enqueue(stream, [=] {
    allocations()[at].life = Life::Here;
    std::memset(bytes_at(at), NANS, bytes);
    return true;
  });
  return SUCCESS;
}

CUresult release(Address address, Stream *stream) {
  auto found = allocations().find(address);
  if (found == allocations().end() || found->second.given_back) return INVALID_VALUE;
  found->second.given_back = true;
  size_t bytes = found->second.bytes;
  found->second.gpu->used -= bytes;
  enqueue(stream, [=] {
    Allocation &allocation = allocations()[address];
    if (allocation.life != Life::Here) fail(ILLEGAL_ADDRESS, "memory " + hex(address) + " is freed before it is there");
    else if (!guards_hold(address, bytes)) fail(ILLEGAL_ADDRESS, "something wrote beside memory " + hex(address) + " of " + std::to_string(bytes) + " bytes");
    allocation.life = Life::Freed;
    std::memset(bytes_at(address), NANS, bytes);
    forget_oldest(address);
    return true;
  });
  return SUCCESS;
}

bool is_there(Address address, size_t bytes, const std::string &who) {
  auto next = allocations().upper_bound(address);
  if (next == allocations().begin()) {
    fail(ILLEGAL_ADDRESS, who + ": " + hex(address) + " is not memory of a GPU");
    return false;
  }
  auto [begin, allocation] = *std::prev(next);
  const char *why = nullptr;
  if (address - begin + bytes > allocation.bytes) why = " is not memory of a GPU, or ends before what is done there";
  else if (allocation.life == Life::Promised) why = " is not there yet on the stream that asked for it";
  else if (allocation.life == Life::Freed) why = " was freed";
  if (why != nullptr) fail(ILLEGAL_ADDRESS, who + ": " + std::to_string(bytes) + " bytes at " + hex(address) + why);
  return why == nullptr;
}

CUresult pin(void **memory, size_t bytes) {
  if (bytes == 0 || posix_memalign(memory, 4096, bytes) != 0) return INVALID_VALUE;
  std::memset(*memory, NANS, bytes);
  pinned()[reinterpret_cast<uintptr_t>(*memory)] = bytes;
  return SUCCESS;
}

CUresult unpin(void *memory) {
  if (pinned().erase(reinterpret_cast<uintptr_t>(memory)) == 0) return INVALID_VALUE;
  std::free(memory);
  return SUCCESS;
}

bool is_pinned(const void *memory, size_t bytes) {
  auto at = reinterpret_cast<uintptr_t>(memory);
  auto next = pinned().upper_bound(at);
  if (next == pinned().begin()) return false;
  auto [begin, size] = *std::prev(next);
  return at - begin + bytes <= size;
}

void report_memory(FILE *file) {
  size_t count = 0, bytes = 0, largest = 0, most = 0;
  for (const auto &[address, allocation] : allocations()) {
    if (allocation.given_back) continue;
    count++;
    bytes += allocation.bytes;
    largest = std::max(largest, allocation.bytes);
  }
  for (const Gpu &gpu : gpus()) most = std::max(most, gpu.most);
  std::fprintf(file, "left=%zu left_bytes=%zu largest_left=%zu most_bytes=%zu\n", count, bytes, largest, most);
}
}  // namespace pretend
