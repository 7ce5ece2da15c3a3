// libnccl.so.2: sums over the processes of one machine, through memory they share, in the order of ranks. As in the library, calls on a communicator that is not
// blocking only ask, and `ncclCommGetAsyncError` says when it was done.
//
// PRETEND_NCCL_ABSENT=RANK: that rank never arrives. PRETEND_NCCL_FAULT=CODE@N or CODE@N:RANK: what becomes of the communicator with its sum N.
#include "gpu.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#define API extern "C" int

using namespace pretend;

namespace {
enum : int { OK = 0, SYSTEM_ERROR = 2, BAD_ARGUMENT = 4, BAD_USAGE = 5, IN_PROGRESS = 7 };
constexpr int VERSION = 22809, FLOAT32 = 7, SUM = 0;
constexpr int ID_BYTES = 128;
// Of `ncclConfig_t` as of 2.18, what is looked at.
constexpr unsigned MAGIC = 0xcafebeef, OLDEST = 21800;
constexpr size_t ROUND = 1 << 16;
constexpr int MOST_RANKS = 16;

std::string last_error;

// In the memory that ranks share. Round by round each posts numbers of its own, reads those of all, and says so.
struct Shared {
  std::atomic<uint32_t> arrived;
  struct Rank {
    std::atomic<uint64_t> posted, read;
    float numbers[ROUND];
  } ranks[MOST_RANKS];
};
}  // namespace

struct Id {
  char bytes[ID_BYTES];
};

struct Config {
  size_t size;
  unsigned magic, version;
  int blocking;
};

struct Comm {
  int size = 1, rank = 0;
  std::string path;
  Shared *shared = nullptr;
  uint64_t rounds = 0, sums = 0;
  bool connected = false, aborted = false;
  int state = IN_PROGRESS, looks = 0;
  // What was asked for and is not on its stream yet.
  std::function<void()> asked;
};

namespace {
Shared *map(const std::string &path) {
  int file = open(path.c_str(), O_RDWR | O_CREAT, 0600);
  if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return nullptr;
  void *memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  return memory == MAP_FAILED ? nullptr : static_cast<Shared *>(memory);
}

int refused(const char *why) {
  last_error = why;
  return BAD_ARGUMENT;
}

template <typename F> bool all(Comm *comm, F f) {
  for (int i = 0; i < comm->size; i++)
    if (!f(comm->shared->ranks[i])) return false;
  return true;
}

// The numbers `from` until `from + count` of a sum.
struct Piece {
  Comm *comm;
  Address from, to;
  size_t done = 0, count;
  bool posted = false;

  // Goes as far as the others allow. Whether it is over.
  bool step() {
    while (done < count && !comm->aborted) {
      uint64_t round = comm->rounds + 1;
      size_t now = std::min(ROUND, count - done);
      Shared::Rank &mine = comm->shared->ranks[comm->rank];
      if (!posted) {
        if (!all(comm, [&](Shared::Rank &rank) { return rank.read >= round - 1; })) return false;
        std::memcpy(mine.numbers, reinterpret_cast<float *>(from) + done, now * 4);
        mine.posted = round;
        posted = true;
      }
      if (!all(comm, [&](Shared::Rank &rank) { return rank.posted >= round; })) return false;
      float *out = reinterpret_cast<float *>(to) + done;
      for (size_t i = 0; i < now; i++) {
        float sum = comm->shared->ranks[0].numbers[i];
        for (int rank = 1; rank < comm->size; rank++) sum += comm->shared->ranks[rank].numbers[i];
        out[i] = sum;
      }
      mine.read = round;
      comm->rounds = round;
      done += now;
      posted = false;
    }
    return true;
  }
};
}  // namespace

API ncclGetVersion(int *version) {
  *version = VERSION;
  return OK;
}

API ncclGetUniqueId(Id *id) {
  std::memset(id, 0, sizeof *id);
  std::snprintf(id->bytes, sizeof id->bytes, "/dev/shm/pretend-nccl-%d-%ld", int(getpid()), long(random()));
  return OK;
}

API ncclCommInitRankConfig(Comm **out, int size, Id id, int rank, Config *config) {
  std::lock_guard<std::recursive_mutex> held(mutex());
  if (config->magic != MAGIC || config->version < OLDEST || config->blocking != 0) return refused("the configuration");
  if (size < 1 || size > MOST_RANKS || rank < 0 || rank >= size) return refused("the rank");
  auto *comm = new Comm;
  comm->size = size;
  comm->rank = rank;
  comm->path = id.bytes;
  if (variable("PRETEND_NCCL_ABSENT") == nullptr || std::atoi(variable("PRETEND_NCCL_ABSENT")) != rank) {
    comm->shared = map(comm->path);
    if (comm->shared == nullptr) return SYSTEM_ERROR;
    comm->shared->arrived++;
  }
  *out = comm;
  return IN_PROGRESS;
}

// Ready some looks after it could be.
API ncclCommGetAsyncError(Comm *comm, int *state) {
  std::lock_guard<std::recursive_mutex> held(mutex());
  if (!comm->connected && comm->shared != nullptr && comm->shared->arrived >= uint32_t(comm->size)) {
    comm->connected = true;
    comm->looks = 0;
    // All have it.
    unlink(comm->path.c_str());
  }
  if (comm->connected && comm->state == IN_PROGRESS && comm->looks++ >= 2) {
    if (comm->asked) comm->asked();
    comm->asked = nullptr;
    comm->state = OK;
  }
  int code;
  uint64_t when;
  if (fault_of("PRETEND_NCCL_FAULT", code, when) && comm->sums >= when) {
    last_error = "as PRETEND_NCCL_FAULT says";
    comm->state = code;
  }
  *state = comm->state;
  return OK;
}

API ncclAllReduce(Address from, Address to, size_t count, int type, int op, Comm *comm, Stream *stream) {
  std::lock_guard<std::recursive_mutex> held(mutex());
  // Before the last call was done nothing may be asked.
  if (comm->state != OK) return BAD_USAGE;
  if (type != FLOAT32 || op != SUM || from % 4 != 0 || to % 4 != 0) return refused("the sum");
  comm->state = IN_PROGRESS;
  comm->looks = 0;
  comm->asked = [=] {
    comm->sums++;
    auto *piece = new Piece{comm, from, to, 0, count};
    enqueue(stream, [=] {
      if (!is_there(from, count * 4, "a sum's operand") || !is_there(to, count * 4, "a sum's result")) return true;
      bool over = piece->step();
      if (over) delete piece;
      return over;
    }, true);
  };
  return IN_PROGRESS;
}

API ncclCommFinalize(Comm *comm) {
  std::lock_guard<std::recursive_mutex> held(mutex());
  if (comm->state != OK) return BAD_USAGE;
  comm->state = IN_PROGRESS;
  comm->looks = 0;
  return IN_PROGRESS;
}

API ncclCommAbort(Comm *comm) {
  std::lock_guard<std::recursive_mutex> held(mutex());
  comm->aborted = true;
  if (!comm->connected) unlink(comm->path.c_str());
  return OK;
}

extern "C" const char *ncclGetErrorString(int code) {
  switch (code) {
    case 1: return "unhandled cuda error";
    case SYSTEM_ERROR: return "unhandled system error";
    case BAD_ARGUMENT: return "invalid argument";
    case BAD_USAGE: return "invalid usage";
    case 6: return "remote process exited or there was a network error";
    case IN_PROGRESS: return "NCCL operation in progress";
  }
  return "unknown result code";
}

extern "C" const char *ncclGetLastError(void *) { return last_error.c_str(); }
