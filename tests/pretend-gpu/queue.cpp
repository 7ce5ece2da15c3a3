// Streams and events: who does what when.
#include "state.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <unistd.h>

namespace pretend {
namespace {
CUresult sticky = SUCCESS;
uint64_t launches = 0;

// Of a set of processes each comes on by itself, as GPUs do, if its host does nothing for a while: one may wait for another that waits for this one.
void come_on() {
  static bool begun = false;
  if (begun) return;
  begun = true;
  std::thread([] {
    for (;;) {
      usleep(20000);
      std::lock_guard<std::recursive_mutex> held(mutex());
      for (Stream *stream : streams())
        if (stream->of_others > 0) {
          uint64_t last = 0;
          for (size_t i = 0; i < stream->queue.size(); i++)
            if (stream->queue[i].of_others) last = stream->done + i + 1;
          reach(Place{stream, last});
        }
    }
  }).detach();
}

bool is_pending(Place place) { return place.stream != nullptr && place.stream->done < place.number; }

void pop(Stream *stream) {
  stream->of_others -= stream->queue.front().of_others;
  stream->queue.pop_front();
  stream->done++;
}

// Has streams that are early do what waits for nothing.
void go_ahead() {
  for (Stream *stream : streams())
    while (stream->early && !stream->queue.empty() && sticky == SUCCESS) {
      const Task &task = stream->queue.front();
      if (is_pending(task.after) || (task.work && !task.work())) break;
      pop(stream);
    }
}
}  // namespace

// Never destroyed: other threads may hold it when the process ends.
std::recursive_mutex &mutex() {
  static auto *one = new std::recursive_mutex;
  return *one;
}

std::set<Stream *> &streams() {
  static auto *all = new std::set<Stream *>;
  return *all;
}

CUresult fault() { return sticky; }

void fail(CUresult code, const std::string &what) {
  if (sticky != SUCCESS) return;
  sticky = code;
  std::fprintf(stderr, "pretend GPU: %s\n", what.c_str());
}

const char *variable(const char *name) {
  const char *value = std::getenv(name);
  return value == nullptr || *value == 0 ? nullptr : value;
}

int rank() {
  const char *value = variable("OMPI_COMM_WORLD_RANK");
  return value == nullptr ? 0 : std::atoi(value);
}

bool fault_of(const char *name, int &code, uint64_t &count) {
  const char *value = variable(name);
  if (value == nullptr) return false;
  unsigned long long at = 0;
  int of = -1;
  int fields = std::sscanf(value, "%d@%llu:%d", &code, &at, &of);
  count = at;
  return fields >= 2 && (fields == 2 || of == rank());
}

void count_launch() {
  int code;
  uint64_t count;
  static const bool wanted = fault_of("PRETEND_GPU_FAULT", code, count);
  static const CUresult what = wanted ? code : SUCCESS;
  static const uint64_t when = wanted ? count : 0;
  launches++;
  if (wanted && launches == when) fail(what, "fails as PRETEND_GPU_FAULT says");
}

void enqueue(Stream *stream, Work work, bool of_others) {
  Task task;
  task.work = std::move(work);
  task.of_others = of_others;
  stream->queue.push_back(std::move(task));
  stream->queued++;
  stream->of_others += of_others;
  if (stream->early) go_ahead();
  if (of_others) come_on();
}

void wait_for(Stream *stream, Place place) {
  if (place.stream == nullptr || place.stream == stream) return;
  Task task;
  task.after = place;
  stream->queue.push_back(std::move(task));
  stream->queued++;
  if (stream->early) go_ahead();
}

Place end_of(Stream *stream) { return Place{stream, stream->queued}; }

bool reach(Place place) {
  Stream *stream = place.stream;
  while (is_pending(place) && sticky == SUCCESS) {
    const Task &task = stream->queue.front();
    if (is_pending(task.after)) {
      // Streams that are early may go on meanwhile, this one among them.
      if (!reach(task.after)) return false;
      continue;
    }
    if (task.work && !task.work()) return false;
    pop(stream);
    if (!stream->early) go_ahead();
  }
  return true;
}

CUresult wait(Place place) {
  while (!reach(place)) {
    mutex().unlock();
    usleep(100);
    mutex().lock();
  }
  return sticky;
}

CUresult wait_all(Gpu *gpu) {
  // Streams that were made later first: nothing but events orders them.
  std::vector<Stream *> all(streams().rbegin(), streams().rend());
  for (Stream *stream : all)
    if (stream->gpu == gpu) wait(end_of(stream));
  return sticky;
}

__attribute__((constructor)) static void report_at_exit() {
  std::atexit([] {
    const char *path = variable("PRETEND_GPU_REPORT");
    FILE *file = path == nullptr ? nullptr : std::fopen(path, "a");
    if (file == nullptr) return;
    std::fprintf(file, "launches=%llu fault=%d ", static_cast<unsigned long long>(launches), sticky);
    report_memory(file);
    std::fclose(file);
  });
}
}  // namespace pretend
