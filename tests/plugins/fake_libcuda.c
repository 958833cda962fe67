/* A libcuda.so.1 whose device memory is host memory: enough to run the GPU measurements against the kernels for the host. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int64_t allocated;

int cuInit(unsigned flags) { return (int)flags; }
int cuDeviceGet(int *device, int number) { return (*device = number); }
int cuDeviceGetName(char *name, int length, int device) { return (void)device, strncpy(name, "fake", (size_t)length), 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &allocated, device; }
int cuDevicePrimaryCtxRelease_v2(int device) { return device; }
int cuCtxSetCurrent(void *context) { return context != &allocated; }
int cuStreamCreate(void **stream, unsigned flags) { return *stream = &allocated, (int)flags; }
int cuStreamDestroy_v2(void *stream) { return allocated != 0 || stream != &allocated; }
int cuStreamSynchronize(void *stream) { return stream != &allocated; }
int cuEventCreate(void **event, unsigned flags) { return *event = malloc(1), (int)flags; }
int cuEventDestroy_v2(void *event) { return free(event), 0; }
int cuEventRecord(void *event, void *stream) { return event == NULL || stream != &allocated; }
int cuEventSynchronize(void *event) { return event == NULL; }
int cuEventElapsedTime(float *ms, void *start, void *end) { return *ms = 0.5f, start == end; }
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    ++allocated;
    return *address = (uint64_t)(uintptr_t)memory, memory == NULL;
}
int cuMemFree_v2(uint64_t address) { return --allocated, free((void *)(uintptr_t)address), 0; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) { return memcpy((void *)(uintptr_t)to, from, bytes), 0; }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) { return memcpy(to, (void *)(uintptr_t)from, bytes), 0; }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    return memcpy((void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes), stream != &allocated;
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream) {
    (void)bytes; /* the flushed memory is large and nobody reads it */
    return *(unsigned char *)(uintptr_t)to = value, stream != &allocated;
}
int cuGetErrorString(int status, const char **text) { return *text = "fake error", status == 0; }
