// Runs a kernel's blocks one after the other, a block's threads as fibers (see emulate.h). x86-64 only.
#include "emulate.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <sys/mman.h>
#include <vector>

thread_local Index3 threadIdx, blockIdx, blockDim, gridDim;

// Saves what a call must preserve on this stack and goes on where `to` stopped.
extern "C" void echat_switch(void **from, void *to);
__asm__(R"(
.globl echat_switch
echat_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace emulator {
namespace {
constexpr size_t STACK = 256 << 10;
// Bytes after a block's shared memory, which no thread writes.
constexpr size_t GUARD = 1 << 10;

enum class State { Ready, Warp, Block, Done };

struct Copy {
  void *to;
  const void *from;
  bool wanted;
};

struct Fiber {
  u8 *stack = nullptr;
  void *top = nullptr;
  State state = State::Done;
  alignas(64) u8 exchanged[64];
  u8 turned[2][8];
  u32 turn = 0;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<u8> shared;
  size_t shared_size = 0;
  void *scheduler = nullptr;
  u32 current = 0;
  // Which way the threads of a warp follow each other.
  bool backwards = false;
  const Kernel *kernel = nullptr;
  void *const *args = nullptr;
};
thread_local Machine machine;

std::map<std::string, Kernel> &kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}

[[noreturn]] void fail(const char *what) {
  std::fprintf(stderr, "emulated kernel: %s (block %u %u %u, thread %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x);
  std::abort();
}

void arrive(std::vector<Copy> &copies) {
  for (const Copy &copy : copies) {
    if (copy.wanted) std::memcpy(copy.to, copy.from, 16);
    else std::memset(copy.to, 0, 16);
  }
  copies.clear();
}

void leave(State state) {
  Fiber &fiber = machine.fibers[machine.current];
  fiber.state = state;
  // On to the next of the warp that can go on; without one the scheduler sees whether they can be released.
  const u32 last = machine.backwards ? 0 : 31;
  for (u32 next = machine.current; next % 32 != last;) {
    next += machine.backwards ? u32(-1) : 1;
    if (machine.fibers[next].state != State::Ready) continue;
    machine.current = next;
    threadIdx.x = next;
    return echat_switch(&fiber.top, machine.fibers[next].top);
  }
  echat_switch(&fiber.top, machine.scheduler);
}

void begin() {
  machine.kernel->run(machine.args);
  leave(State::Done);
  fail("a thread went on after its end");
}

void prepare(Fiber &fiber) {
  if (fiber.stack == nullptr) {
    void *memory = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("no memory for a stack");
    fiber.stack = static_cast<u8 *>(memory);
  }
  fiber.open.clear();
  fiber.groups.clear();
  fiber.turn = 0;
  // As echat_switch leaves a stack: six registers, then where to return to; a function begins with the stack 8 past a multiple of 16.
  void **top = reinterpret_cast<void **>(fiber.stack + STACK - 64);
  *--top = nullptr;
  *--top = reinterpret_cast<void *>(&begin);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber.top = top;
  fiber.state = State::Ready;
}

void resume(u32 thread) {
  machine.current = thread;
  threadIdx = Index3{thread, 0, 0};
  echat_switch(&machine.scheduler, machine.fibers[thread].top);
}

// Releases the threads first..last if all that have not ended wait there. Whether it did.
bool release(u32 first, u32 last, State waiting) {
  bool any = false;
  for (u32 i = first; i < last; i++) {
    State state = machine.fibers[i].state;
    if (state != waiting && state != State::Done) return false;
    any |= state == waiting;
  }
  for (u32 i = first; any && i < last; i++)
    if (machine.fibers[i].state == waiting) machine.fibers[i].state = State::Ready;
  return any;
}

// Lets a warp's threads run until all wait for the block or have ended. Whether any ran.
bool run_warp(u32 first) {
  bool ran = false;
  for (bool goes_on = true; goes_on; ran |= goes_on) {
    goes_on = false;
    for (u32 i = 0; i < 32 && !goes_on; i++) {
      u32 thread = first + (machine.backwards ? 31 - i : i);
      if (machine.fibers[thread].state != State::Ready) continue;
      resume(thread);
      goes_on = true;
    }
    goes_on |= release(first, first + 32, State::Warp);
  }
  return ran;
}

void run_block(u32 threads, bool backwards) {
  for (u32 i = 0; i < threads; i++) prepare(machine.fibers[i]);
  std::memset(machine.shared.data(), 0xff, machine.shared.size());
  machine.backwards = backwards;
  for (bool goes_on = true; goes_on; goes_on |= release(0, threads, State::Block)) {
    goes_on = false;
    for (u32 i = 0; i < threads; i += 32) goes_on |= run_warp(backwards ? threads - 32 - i : i);
  }
  for (u32 i = 0; i < threads; i++)
    if (machine.fibers[i].state != State::Done) fail("its threads wait for each other");
  for (size_t i = 0; i < GUARD; i++)
    if (shared_memory()[machine.shared_size + i] != 0xff) fail("wrote past its shared memory");
}
}  // namespace

u8 *shared_memory() { return reinterpret_cast<u8 *>((reinterpret_cast<uintptr_t>(machine.shared.data()) + 127) / 128 * 128); }
void wait_warp() { leave(State::Warp); }
void wait_block() { leave(State::Block); }
u32 next_turn() { return machine.fibers[machine.current].turn ^= 1; }
u8 *turned(u32 turn, u32 lane) { return machine.fibers[machine.current / 32 * 32 + lane].turned[turn]; }
u8 *exchange(u32 lane) { return machine.fibers[machine.current / 32 * 32 + lane].exchanged; }

void expect_aligned(const void *p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) fail("16 bytes are not aligned");
}
void copy_async(void *to, const void *from, bool wanted) {
  expect_aligned(to);
  if (wanted) expect_aligned(from);
  machine.fibers[machine.current].open.push_back(Copy{to, from, wanted});
}
void copy_commit() {
  Fiber &fiber = machine.fibers[machine.current];
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}
void copy_wait(int newest) {
  Fiber &fiber = machine.fibers[machine.current];
  size_t done = fiber.groups.size() > size_t(newest) ? fiber.groups.size() - size_t(newest) : 0;
  for (size_t i = 0; i < done; i++) arrive(fiber.groups[i]);
  fiber.groups.erase(fiber.groups.begin(), fiber.groups.begin() + std::ptrdiff_t(done));
}

void add(const char *name, Kernel kernel) { kernels().emplace(name, kernel); }
}  // namespace emulator

// The kinds of the `count` arguments of kernel `name`; null if there is none.
extern "C" const u32 *echat_emulated_kinds(const char *name, u32 *count) {
  auto found = emulator::kernels().find(name);
  if (found == emulator::kernels().end()) return nullptr;
  *count = found->second.count;
  return found->second.kinds;
}

// Runs kernel `name` with `count` arguments of the given kinds. 0, or 1: no such kernel, 2: another number of arguments, 100 + i: argument i is of another kind.
extern "C" int echat_emulate(const char *name, const u32 *grid, u32 threads, size_t shared, void *const *args, const u32 *kinds, u32 count) {
  using namespace emulator;
  auto found = kernels().find(name);
  if (found == kernels().end()) return 1;
  const Kernel &kernel = found->second;
  if (kernel.count != count) return 2;
  for (u32 i = 0; i < count; i++)
    if (kernel.kinds[i] != kinds[i]) return 100 + int(i);
  machine.kernel = &kernel;
  machine.args = args;
  if (machine.fibers.size() < threads) machine.fibers.resize(threads);
  machine.shared.assign(shared + 128 + GUARD, 0);
  machine.shared_size = shared;
  blockDim = Index3{threads, 1, 1};
  gridDim = Index3{grid[0], grid[1], grid[2]};
  u32 number = 0;
  for (u32 z = 0; z < grid[2]; z++)
    for (u32 y = 0; y < grid[1]; y++)
      for (u32 x = 0; x < grid[0]; x++) {
        blockIdx = Index3{x, y, z};
        run_block(threads, number++ % 2 == 1);
      }
  return 0;
}
