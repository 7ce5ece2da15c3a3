// libcublas: candle makes a handle of it with every device. What multiplies is cuBLASLt (blaslt.cpp).
extern "C" int cublasCreate_v2(void **handle) {
  static int one;
  *handle = &one;
  return 0;
}
extern "C" int cublasDestroy_v2(void *) { return 0; }
extern "C" int cublasSetStream_v2(void *, void *) { return 0; }
