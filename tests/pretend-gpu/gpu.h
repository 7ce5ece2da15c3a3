// What the pretend libraries share: libcuda.so.1 has it, the others are linked to that.
//
// Work put on a stream is kept in its queue and done as late as the driver's documentation lets it be: when the host waits for it, or for
// something behind an event after it. Streams are ordered against each other by events alone. With PRETEND_GPU_ORDER=early streams that were made with a
// priority do theirs as early as they may instead: what they have to wait for and do not is not there yet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>

using CUresult = int;
using Address = unsigned long long;

enum : CUresult {
  SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
  UNSUPPORTED_PTX_VERSION = 222, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
};

namespace pretend {

// Does a piece of work. False: not yet, as it waits for another process; ask again.
using Work = std::function<bool()>;

struct Stream;

// The place behind some work of a stream.
struct Place {
  Stream *stream = nullptr;
  uint64_t number = 0;
};

struct Task {
  Work work;
  // Not work, but what must come before the rest.
  Place after;
  bool of_others = false;
};

struct Gpu;

struct Stream {
  Gpu *gpu = nullptr;
  std::deque<Task> queue;
  uint64_t queued = 0, done = 0;
  // Tasks in the queue that wait for other processes.
  size_t of_others = 0;
  // Does its work as early as it may.
  bool early = false;
};

struct Event {
  Place place;
  bool timed = false;
  // How often it was asked whether it has come, since it was recorded.
  unsigned looks = 0;
  double milliseconds = 0;
};

struct Gpu {
  int ordinal;
  std::string name;
  // Bytes, by the order of the calls: what was asked for, less what was given back.
  size_t total, used = 0, most = 0;
};

// Everything is behind this lock.
std::recursive_mutex &mutex();
// 0, or what every call returns from now on.
CUresult fault();
// A GPU that is told of an error of its program: said on stderr, and `code` from now on.
void fail(CUresult code, const std::string &what);

void enqueue(Stream *stream, Work work, bool of_others = false);
void wait_for(Stream *stream, Place place);
// Has all up to `place` done; false where that waits for other processes.
bool reach(Place place);
// The same, however long it takes.
CUresult wait(Place place);
Place end_of(Stream *stream);
// Every stream's end, of all GPUs or of one.
CUresult wait_all(Gpu *gpu);

// Whether `bytes` at `address` are memory of a GPU that is there by now, in the order in which work is done; if not, `who` has failed.
bool is_there(Address address, size_t bytes, const std::string &who);

// The value of a variable of the environment, or nothing.
const char *variable(const char *name);
// "CODE@COUNT" or "CODE@COUNT:RANK" of a variable: whether it is for this rank, and what it says.
bool fault_of(const char *name, int &code, uint64_t &count);
// The rank that mpirun gave this process.
int rank();

}  // namespace pretend
