// Functions of cuBLAS and cuDNN that have to answer more than that they succeeded.
#include <cstddef>
#include <cstring>

extern "C" {
#ifdef STANDIN_CUBLASLT
int cublasLtMatmulAlgoGetHeuristic(void *, void *, void *, void *, void *, void *, void *, int, void *found, int *count) {
    return *count = 1, std::memset(found, 0, 64), 0;
}
#endif
#ifdef STANDIN_CUBLAS
const char *cublasGetStatusName(int) { return "stand-in"; }
const char *cublasGetStatusString(int) { return "stand-in"; }
int cublasGetMathMode(void *, int *mode) { return *mode = 0; }
#endif
#ifdef STANDIN_CUDNN
size_t cudnnGetVersion() { return 91400; }
const char *cudnnGetErrorString(int) { return "stand-in"; }
void cudnnGetLastErrorString(char *text, size_t) { *text = 0; }
int cudnnGetReductionWorkspaceSize(void *, void *, void *, void *, size_t *bytes) { return *bytes = 0, 0; }
int cudnnGetReductionIndicesSize(void *, void *, void *, void *, size_t *bytes) { return *bytes = 0, 0; }
#endif
}
