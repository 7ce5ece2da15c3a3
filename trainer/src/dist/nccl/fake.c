// A library with the names of NCCL's functions, for tests: it compares what it is given with what nccl.h asks for.
#include <limits.h>
#include <stddef.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION 22809
#endif
// What becomes of the communicator after two looks.
#ifndef STATE
#define STATE 0
#endif

typedef struct { char internal[128]; } ncclUniqueId;
typedef struct {
  size_t size;
  unsigned int magic, version;
  int blocking, cgaClusterSize, minCTAs, maxCTAs;
  const char *netName;
  int splitShare;
  int trafficClass;
  const char *commName;
} ncclConfig_t;

static const char *last = "";
static int looks, communicator;

int ncclGetVersion(int *version) { *version = VERSION; return 0; }

int ncclGetUniqueId(ncclUniqueId *id) {
  for (int i = 0; i < 128; i++) id->internal[i] = (char)i;
  return 0;
}

int ncclCommInitRankConfig(void **comm, int size, ncclUniqueId id, int rank, ncclConfig_t *config) {
  last = NULL;
  for (int i = 0; i < 128; i++)
    if (id.internal[i] != (char)i) last = "the id";
  if (size != 5 || rank != 3) last = "the rank";
  if (config->size != offsetof(ncclConfig_t, commName) || config->magic != 0xcafebeef || config->version != 21800) last = "the head";
  if (config->blocking != 0) last = "blocking";
  if (config->cgaClusterSize != INT_MIN || config->minCTAs != INT_MIN || config->maxCTAs != INT_MIN) last = "the blocks";
  if (config->netName != NULL || config->splitShare != INT_MIN || config->trafficClass != INT_MIN) last = "the tail";
  if (last != NULL) return 4;
  last = STATE == 0 ? "" : "Connection closed by node7\n";
  *comm = &communicator;
  return 7;
}

int ncclCommGetAsyncError(void *comm, int *state) {
  if (comm != &communicator) return 4;
  *state = looks++ < 2 ? 7 : STATE;
  return 0;
}

int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, void *comm, void *stream) {
  return comm == &communicator && type == 7 && op == 0 ? 7 : 4;
}

#ifndef WITHOUT_FINALIZE
int ncclCommFinalize(void *comm) { return comm == &communicator ? 7 : 4; }
#endif

int ncclCommAbort(void *comm) {
  sleep(5);
  return comm == &communicator ? 0 : 4;
}

const char *ncclGetErrorString(int code) { return code == 6 ? "remote process exited" : "invalid argument"; }

const char *ncclGetLastError(void *comm) { return last; }
