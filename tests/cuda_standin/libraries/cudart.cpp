// The CUDA runtime that onnxruntime's provider is linked with: memory is the host's, kernels do nothing and are counted
// by name. CUDA_MAJOR is 12 or 13. Functions that only have to succeed are made by build.py.
#include "ledger.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

namespace {
constexpr int OUT_OF_MEMORY = 2;
std::mutex mutex;
std::map<const void *, std::string> *kernels = new std::map<const void *, std::string>;
char object;

struct Dim3 { unsigned x, y, z; };

int capability() {
    const char *given = std::getenv("STANDIN_SM");
    return given ? std::atoi(given) : 87;
}
int allocate(void **found, size_t bytes) {
    *found = nullptr;
    size_t padded = (bytes + 511) / 512 * 512 + 512;
    char *raw = static_cast<char *>(std::calloc(1, padded + 512));  // zeros that cost nothing until they are touched
    if (raw == nullptr) return OUT_OF_MEMORY;
    char *aligned = raw + 512 - reinterpret_cast<uintptr_t>(raw) % 512;
    std::memcpy(aligned - sizeof raw, &raw, sizeof raw);
    ledger_memory(*found = aligned, bytes ? bytes : 1);
    return 0;
}
int release(void *address) {
    if (address == nullptr) return 0;
    ledger_memory(address, 0);
    void *raw;
    std::memcpy(&raw, static_cast<char *>(address) - sizeof raw, sizeof raw);
    std::free(raw);
    return 0;
}
int copy(void *to, const void *from, size_t bytes) {
    ledger_copied(to, from, bytes);
    if (bytes) std::memmove(to, from, bytes);
    return 0;
}
int launch(const void *kernel) {
    std::lock_guard<std::mutex> lock(mutex);
    auto found = kernels->find(kernel);
    ledger_count("launch", found == kernels->end() ? "unknown" : found->second.c_str());
    return 0;
}
int wait(const char *name) { return ledger_count("wait", name), 0; }
template <typename T> void put(void *properties, size_t offset, T value) {
    std::memcpy(static_cast<char *>(properties) + offset, &value, sizeof value);
}
}  // namespace

extern "C" {
int cudaMalloc(void **found, size_t bytes) { return allocate(found, bytes); }
int cudaMallocFromPoolAsync(void **found, size_t bytes, void *, void *) { return allocate(found, bytes); }
int cudaMallocAsync(void **found, size_t bytes, void *) { return allocate(found, bytes); }
int cudaFree(void *address) { return release(address); }
int cudaFreeAsync(void *address, void *) { return release(address); }
int cudaMallocHost(void **found, size_t bytes) { return *found = std::calloc(1, bytes + 1), 0; }
int cudaHostAlloc(void **found, size_t bytes, unsigned) { return cudaMallocHost(found, bytes); }
int cudaFreeHost(void *address) { return std::free(address), 0; }

int cudaMemcpy(void *to, const void *from, size_t bytes, int) { return wait("cudaMemcpy"), copy(to, from, bytes); }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int, void *) { return copy(to, from, bytes); }
int cudaMemcpy2DAsync(char *to, size_t to_pitch, const char *from, size_t from_pitch, size_t width, size_t rows, int, void *) {
    ledger_copied(to, from, width * rows);
    for (size_t row = 0; row < rows; ++row) std::memmove(to + row * to_pitch, from + row * from_pitch, width);
    return 0;
}
int cudaMemcpyFromSymbol(void *to, const void *, size_t bytes, size_t, int) { return std::memset(to, 0, bytes), 0; }
int cudaMemset(void *at, int value, size_t bytes) { return ledger_count("memset", "cudaMemset"), std::memset(at, value, bytes), 0; }
int cudaMemsetAsync(void *at, int value, size_t bytes, void *) { return cudaMemset(at, value, bytes); }

int cudaStreamSynchronize(void *) { return wait("cudaStreamSynchronize"); }
int cudaDeviceSynchronize() { return wait("cudaDeviceSynchronize"); }
int cudaEventSynchronize(void *) { return wait("cudaEventSynchronize"); }
int cudaEventElapsedTime(float *ms, void *, void *) { return *ms = 1, 0; }
int cudaStreamIsCapturing(void *, int *status) { return *status = ledger_captures(-1), 0; }
int cudaStreamBeginCapture(void *, int) { return ledger_captures(1), 0; }
int cudaStreamEndCapture(void *, void **graph) { return ledger_captures(0), *graph = &object, 0; }
int cudaGraphLaunch(void *, void *) { return ledger_count("launch", "cudaGraphLaunch"), 0; }

int cudaGetDevice(int *device) { return *device = 0, 0; }
int cudaGetDeviceCount(int *count) { return *count = 1, 0; }
int cudaDriverGetVersion(int *version) { return *version = CUDA_MAJOR * 1000, 0; }
int cudaRuntimeGetVersion(int *version) { return *version = CUDA_MAJOR * 1000, 0; }
int cudaMemGetInfo(size_t *unused, size_t *all) { return *unused = size_t(14) << 30, *all = size_t(16) << 30, 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int) {
    static const std::map<int, int> known = {{1, 1024}, {8, 49152}, {10, 32}, {12, 65536}, {16, 16}, {38, 4 << 20},
                                             {39, 1536}, {81, 167936}, {97, 166912}, {115, 1}};
    auto found = known.find(attribute);
    *value = attribute == 75 ? capability() / 10 : attribute == 76 ? capability() % 10 : found == known.end() ? 0 : found->second;
    return 0;
}
// cudaDeviceProp by the offsets of its fields; up to "minor" they are those of CUDA 12 as well.
int properties(void *all) {
    std::memset(all, 0, CUDA_MAJOR == 13 ? 1008 : 1032);
    std::strcpy(static_cast<char *>(all), "stand-in");
    put(all, 288, size_t(16) << 30), put(all, 296, size_t(49152)), put(all, 304, 65536), put(all, 308, 32), put(all, 320, 1024);
    for (int i = 0; i < 3; ++i) put(all, 324 + 4 * i, i == 2 ? 64 : 1024), put(all, 336 + 4 * i, i ? 65535 : 2147483647);
    put(all, 360, capability() / 10), put(all, 364, capability() % 10), put(all, CUDA_MAJOR == 13 ? 384 : 388, 16);
    if (CUDA_MAJOR == 13) put(all, 604, 1536), put(all, 624, size_t(167936)), put(all, 632, 65536), put(all, 672, size_t(166912));
    return 0;
}
int cudaGetDeviceProperties(void *all, int) { return properties(all); }
int cudaGetDeviceProperties_v2(void *all, int) { return properties(all); }
int cudaPointerGetAttributes(void *all, void *address) {
    std::memset(all, 0, 24);
    put(all, 0, ledger_is_device(address) ? 2 : 1), put(all, 8, address);
    return 0;
}
int cudaFuncGetAttributes(void *all, const void *) {
    std::memset(all, 0, 56);
    put(all, 24, 1024), put(all, 28, 64), put(all, 32, capability()), put(all, 36, capability());
    return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *, int, size_t, unsigned) { return *blocks = 2, 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *, int, size_t) { return *blocks = 2, 0; }
int cudaMemPoolGetAttribute(void *, int, uint64_t *value) { return *value = 0, 0; }
const char *cudaGetErrorName(int) { return "stand-in"; }
const char *cudaGetErrorString(int) { return "stand-in"; }
int cudaGetDriverEntryPointByVersion(const char *, void **function, unsigned, unsigned long long, int *result) {
    *function = nullptr;
    if (result) *result = 1;
    return 801;
}

int cudaLaunchKernel(const void *kernel, Dim3, Dim3, void **, size_t, void *) { return launch(kernel); }
int __cudaLaunchKernel(const void *kernel, Dim3, Dim3, void **, size_t, void *) { return launch(kernel); }
int cudaLaunchCooperativeKernel(const void *kernel, Dim3, Dim3, void **, size_t, void *) { return launch(kernel); }
int cudaLaunchKernelExC(const void *, const void *kernel, void **) { return launch(kernel); }
int __cudaGetKernel(const void **kernel, const void *host) { return *kernel = host, 0; }
int __cudaPopCallConfiguration(Dim3 *grid, Dim3 *block, size_t *shared, void **stream) {
    return *grid = *block = {1, 1, 1}, *shared = 0, *stream = nullptr, 0;
}
void **__cudaRegisterFatBinary(void *) {
    static void *handle;
    return &handle;
}
void __cudaRegisterFunction(void **, const void *host, char *, const char *name, int, void *, void *, void *, void *, int *) {
    std::lock_guard<std::mutex> lock(mutex);
    (*kernels)[host] = name;
}
}
