// libnvrtc: what it makes of a source is that source, which `cuModuleLoadData` of the pretend driver takes.
#include <cstdlib>
#include <cstring>
#include <string>

#define API extern "C" int

struct Program {
  std::string text;
  bool compiled = false;
};

API nvrtcCreateProgram(Program **program, const char *text, const char *, int, const char *const *, const char *const *) {
  *program = new Program{text};
  return 0;
}
// An architecture must be named, one that the kernels' instructions are of.
API nvrtcCompileProgram(Program *program, int count, const char *const *options) {
  for (int i = 0; i < count; i++)
    if (std::strncmp(options[i], "--gpu-architecture=compute_", 27) == 0 && std::atoi(options[i] + 27) >= 80) program->compiled = true;
  return program->compiled ? 0 : 5;
}
API nvrtcGetPTXSize(Program *program, size_t *size) {
  *size = program->text.size() + 1;
  return program->compiled ? 0 : 4;
}
API nvrtcGetPTX(Program *program, char *ptx) {
  std::memcpy(ptx, program->text.c_str(), program->text.size() + 1);
  return 0;
}
API nvrtcGetProgramLogSize(Program *, size_t *size) {
  *size = 1;
  return 0;
}
API nvrtcGetProgramLog(Program *, char *log) {
  *log = 0;
  return 0;
}
API nvrtcDestroyProgram(Program **program) {
  delete *program;
  *program = nullptr;
  return 0;
}
