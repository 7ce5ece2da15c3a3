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

// A thread's part of a product of its warpgroup.
struct Product {
  float *sums;
  u32 n;
  const u32 *a;
  u64 a_descriptor, b_descriptor;
  bool add, columns;
  u32 words[4];                // What was in the registers `a`.
  std::vector<u16> operands;   // 16 numbers of each of its two rows and of its n / 4 columns.
  std::vector<float> before;   // The sums, unless an earlier product of theirs is under way.
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
  std::vector<size_t> unfenced;  // Those that it copied.
  std::vector<Product> begun;
  std::vector<std::vector<Product>> products;
  bool may_multiply = false;
  u64 asked = 0;  // All it asked of its warpgroup.
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<u8> shared;
  size_t shared_size = 0;
  std::vector<u8> unfenced;  // For 16 bytes each: whether they were copied, and products not told.
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

void arrive(Fiber &fiber, std::vector<Copy> &copies) {
  for (const Copy &copy : copies) {
    size_t at = size_t(static_cast<u8 *>(copy.to) - shared_memory()) / 16;
    if (at < machine.unfenced.size()) {
      machine.unfenced[at] = true;
      fiber.unfenced.push_back(at);
    }
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
  fiber.unfenced.clear();
  fiber.begun.clear();
  fiber.products.clear();
  fiber.may_multiply = false;
  fiber.asked = 0;
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
  machine.unfenced.assign(machine.shared_size / 16, false);
  machine.backwards = backwards;
  for (bool goes_on = true; goes_on; goes_on |= release(0, threads, State::Block)) {
    goes_on = false;
    for (u32 i = 0; i < threads; i += 32) goes_on |= run_warp(backwards ? threads - 32 - i : i);
  }
  for (u32 i = 0; i < threads; i++)
    if (machine.fibers[i].state != State::Done) fail("its threads wait for each other");
  for (u32 i = 0; i < threads; i++) {
    if (!machine.fibers[i].products.empty() || !machine.fibers[i].begun.empty()) fail("a product was never waited for");
    if (machine.fibers[i].asked != machine.fibers[i / 128 * 128].asked) fail("threads of a warpgroup asked for different products");
  }
  for (size_t i = 0; i < GUARD; i++)
    if (shared_memory()[machine.shared_size + i] != 0xff) fail("wrote past its shared memory");
}

// Where the block's own shared memory begins: as little aligned as it may be.
constexpr u32 SHARED_BASE = 1024 + 384;
// Of sums under way.
constexpr u32 UNDER_WAY = 0x7fc0beef;

// Reads the 16 numbers of row i of an operand, or of column i if its depth runs down its rows: PTX ISA, "Shared Memory Matrix Layout" and "Matrix Descriptor
// Format", for bf16 with 128-byte swizzle.
void read_operand(u16 *to, u64 descriptor, bool columns, u32 i) {
  u32 start = u32(descriptor & 0x3fff) << 4, leading = u32(descriptor >> 16 & 0x3fff) << 4, stride = u32(descriptor >> 32 & 0x3fff) << 4;
  if (descriptor >> 62 != 1) fail("a descriptor without the 128-byte swizzle is not emulated");
  if ((descriptor & 0x3fffc000c000c000) != 0) fail("a descriptor has a base offset, or bits without meaning");
  if (start % 1024 / 128 != 0) fail("an operand's pattern does not begin at a multiple of 1024");
  const u8 *memory = shared_memory();
  for (u32 k = 0; k < 16; k++) {
    u32 address = columns ? start + i / 64 * leading + k / 8 * stride + k % 8 * 128 + i % 64 * 2 : start + i / 8 * stride + i % 8 * 128 + k * 2;
    address ^= (address >> 7 & 7) << 4;
    u32 at = address - SHARED_BASE;
    if (address < SHARED_BASE || at + 2 > machine.shared_size) fail("a product reads beyond the shared memory");
    if (machine.unfenced[at / 16]) fail("a product reads what was copied, and no fence.proxy.async after it");
    std::memcpy(to + k, memory + at, 2);
  }
}

// The operands of a thread's part; of rows in registers what lanes exchanged.
std::vector<u16> operands_of(const Product &product, const u16 (&rows)[2][16]) {
  u32 thread = threadIdx.x % 128, lane = thread % 32;
  std::vector<u16> all(32 + product.n / 4 * 16);
  for (u32 half = 0; half < 2; half++) {
    if (product.a != nullptr) std::memcpy(&all[16 * half], rows[half], sizeof rows[half]);
    else read_operand(&all[16 * half], product.a_descriptor, false, thread / 32 * 16 + half * 8 + lane / 4);
  }
  for (u32 i = 0; i < product.n / 4; i++)
    read_operand(&all[32 + 16 * i], product.b_descriptor, product.columns, i / 2 * 8 + lane % 4 * 2 + i % 2);
  return all;
}

// Puts the numbers of rows that the four lanes have in registers together.
void exchange_rows(const u32 *a, u16 (&rows)[2][16]) {
  u32 lane = threadIdx.x % 32;
  if (a != nullptr) std::memcpy(exchange(lane), a, 16);
  wait_warp();
  for (u32 from = 0; a != nullptr && from < 4; from++)
    for (u32 i = 0; i < 8; i++) {
      u32 word;
      std::memcpy(&word, exchange(lane / 4 * 4 + from) + i / 2 * 4, 4);
      rows[i / 2 % 2][i / 4 * 8 + 2 * from + i % 2] = u16(word >> 16 * (i % 2));
    }
  wait_warp();
}

void finish(const Product &product) {
  u16 rows[2][16];
  for (u32 i = 0; i < 32; i++) rows[i / 16][i % 16] = product.operands[i];
  if (operands_of(product, rows) != product.operands) fail("shared memory changed under a product");
  if (product.a != nullptr && std::memcmp(product.a, product.words, 16) != 0) fail("an operand in registers changed under a product");
  for (size_t i = 0; i < product.before.size(); i++) {
    if (__float_as_uint(product.sums[i]) != UNDER_WAY) fail("sums were written under a product");
    product.sums[i] = product.before[i];
  }
  for (u32 i = 0; i < product.n / 2; i++) {
    const u16 *row = &product.operands[i / 2 % 2 * 16], *column = &product.operands[32 + (i / 4 * 2 + i % 2) * 16];
    float sum = product.add ? product.sums[i] : 0.0f;
    for (u32 k = 0; k < 16; k++) sum += emulated_bf16(row[k]) * emulated_bf16(column[k]);
    product.sums[i] = sum;
  }
}

void ask(u64 what) {
  u64 &asked = machine.fibers[machine.current].asked;
  asked = (asked ^ what) * 0x9e3779b97f4a7c15ull + 1;
}
}  // namespace

u32 shared_address(const void *p) { return u32(static_cast<const u8 *>(p) - shared_memory()) + SHARED_BASE; }

void wgmma(float *sums, u32 n, const u32 *a, u64 a_descriptor, u64 b_descriptor, bool add, bool columns) {
  Fiber &fiber = machine.fibers[machine.current];
  if (!fiber.may_multiply) fail("a product without wgmma.fence before it");
  for (u64 what : {u64(1), u64(n), u64(a != nullptr), a_descriptor, b_descriptor, u64(add), u64(columns)}) ask(what);
  Product product{sums, n, a, a_descriptor, b_descriptor, add, columns, {}, {}, {}};
  u16 rows[2][16];
  exchange_rows(a, rows);
  if (a != nullptr) std::memcpy(product.words, a, 16);
  product.operands = operands_of(product, rows);
  bool first = true;
  for (const Product &other : fiber.begun) first &= other.sums != sums;
  for (const auto &group : fiber.products)
    for (const Product &other : group) first &= other.sums != sums;
  if (first) {
    product.before.assign(sums, sums + n / 2);
    for (u32 i = 0; i < n / 2; i++) sums[i] = __uint_as_float(UNDER_WAY);
  }
  fiber.begun.push_back(std::move(product));
}
void wgmma_fence() {
  machine.fibers[machine.current].may_multiply = true;
  ask(2);
}
void wgmma_commit() {
  Fiber &fiber = machine.fibers[machine.current];
  fiber.products.push_back(std::move(fiber.begun));
  fiber.begun.clear();
  ask(3);
}
void wgmma_wait(int newest) {
  Fiber &fiber = machine.fibers[machine.current];
  size_t done = fiber.products.size() > size_t(newest) ? fiber.products.size() - size_t(newest) : 0;
  for (size_t i = 0; i < done; i++)
    for (const Product &product : fiber.products[i]) finish(product);
  fiber.products.erase(fiber.products.begin(), fiber.products.begin() + std::ptrdiff_t(done));
  // The registers are the program's again.
  fiber.may_multiply = false;
  ask(4 + u64(newest));
}
void proxy_fence() {
  Fiber &fiber = machine.fibers[machine.current];
  for (size_t at : fiber.unfenced) machine.unfenced[at] = false;
  fiber.unfenced.clear();
}

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
  for (size_t i = 0; i < done; i++) arrive(fiber, fiber.groups[i]);
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
